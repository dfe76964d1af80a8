from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.agent.environment_file import read_environment_file
from broker.agent.template import TemplateInvalidError, parse_template
from broker.errors import BrokerError
from broker.secret import Encoding, SecretValue


def text(value: str) -> SecretValue:
    return SecretValue(value.encode(), encoding=Encoding.TEXT)


def filled(template: str, **values: str) -> str:
    found = parse_template(template)
    return (
        found.fill({reference: text(value) for reference, value in zip(found.references, values.values(), strict=True)})
        .reveal()
        .decode()
    )


@pytest.mark.parametrize(
    ("template", "reference"),
    [
        ("${LOGFLUX_PAT}", "env:LOGFLUX_PAT"),
        ("${env:LOGFLUX_PAT}", "env:LOGFLUX_PAT"),
        ("${file:/x}", "file:/x"),
        ("${vault:secret/logflux#api_key}", "vault:secret/logflux#api_key"),
        ("${bao:secret/logflux#/a/b}", "vault:secret/logflux#/a/b"),
    ],
)
def test_braces_hold_a_name_or_a_reference_with_its_scheme(template: str, reference: str) -> None:
    assert parse_template(template).references == (reference,)


def test_the_text_around_a_reference_stays() -> None:
    template = "postgres://app:${vault:database/creds/app#password}@db/${ENV}\n"
    assert filled(template, one="p", two="x") == "postgres://app:p@db/x\n"


def test_a_reference_that_stands_twice_is_asked_once() -> None:
    assert parse_template("${A} ${env:A} ${B}").references == ("env:A", "env:B")


@pytest.mark.parametrize(
    ("template", "expected"),
    [("$${A}", "${A}"), ("$$${A}", "$${A}"), ("$5 $A $$ {A} }", "$5 $A $$ {A} }"), ("", ""), ("é", "é")],
)
def test_what_is_no_reference_stays_as_it_is(template: str, expected: str) -> None:
    assert filled(template) == expected


@pytest.mark.parametrize("value", ["${B}", "vault:a/b#c", "$${", "/etc/passwd", "}"])
def test_a_value_is_never_read_again(value: str) -> None:
    assert filled("<${A}>", one=value) == f"<{value}>"


@pytest.mark.parametrize(
    ("template", "line", "column"),
    [
        ("a ${A", 1, 3),
        ("a\nb ${}", 2, 5),
        ("${HOME:-x}", 1, 3),
        ("${/etc/passwd}", 1, 3),
        ("${$A}", 1, 3),
        ("${A${B}}", 1, 3),
        ("${lower}", 1, 3),
        ("${https://x.example}", 1, 3),
        ("\n\n ${vault:a//b#c}", 3, 12),
        ("x\ud800", 1, 2),
    ],
)
def test_what_could_be_meant_as_a_reference_and_is_none_is_refused_at_its_place(
    template: str, line: int, column: int
) -> None:
    with pytest.raises(TemplateInvalidError) as raised:
        parse_template(template)
    assert (raised.value.line, raised.value.column) == (line, column)


def test_a_binary_value_can_not_stand_in_text() -> None:
    template = parse_template("${A}")
    with pytest.raises(TemplateInvalidError, match="binary"):
        template.fill({"env:A": SecretValue(b"\xff", encoding=Encoding.BASE64)})


def test_a_missing_value_is_named() -> None:
    with pytest.raises(TemplateInvalidError, match="env:A"):
        parse_template("${A}").fill({})


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab${}:/#A\n\ud800é"), max_size=30))
def test_no_template_raises_anything_but_the_declared_error(template: str) -> None:
    try:
        found = parse_template(template)
    except TemplateInvalidError:
        return
    found.fill({reference: text("v") for reference in found.references})


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_can_be_written_as_a_template(literal: str) -> None:
    # A $ before a literal ${ needs care of its own, so the property is told of texts without $${.
    if "$${" not in literal:
        assert filled(literal.replace("${", "$${")) == literal


def environment(directory: Path, content: bytes) -> dict[str, str]:
    file = directory / "agent.env"
    file.write_bytes(content)
    found = read_environment_file(file)
    return {
        name: template.fill({reference: text(f"<{reference}>") for reference in template.references}).reveal().decode()
        for name, template in found.items()
    }


def test_a_line_is_a_reference_a_template_or_its_own_text(tmp_path: Path) -> None:
    content = (
        b"# credentials\n\nKEY=vault:a/b#c\r\nDSN=db://u:${env:P}@h\nLEVEL=info # all of it\nEMPTY=\nPATH_TO=/etc/x\n"
        b"SUM=a=b\nLITERAL=$${A}\n"
    )
    assert environment(tmp_path, content) == {
        "KEY": "<vault:a/b#c>",
        "DSN": "db://u:<env:P>@h",
        "LEVEL": "info # all of it",
        "EMPTY": "",
        "PATH_TO": "/etc/x",
        "SUM": "a=b",
        "LITERAL": "${A}",
    }


@pytest.mark.parametrize(
    "line",
    [b"A", b"A =b", b"export A=b", b"1A=b", b"=b", b'A="b"', b"A='b'", b"A=vault:a//b", b"A=${", b"A=x\0", b"B=2\nB=3"],
)
def test_a_line_that_could_be_read_in_two_ways_is_refused_with_its_number(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(TemplateInvalidError, match=r"agent\.env: line [23]: "):
        environment(tmp_path, b"# first\n" + line + b"\n")


@pytest.mark.parametrize("content", [b"A=\xff", b"#" * (1024 * 1024 + 1)])
def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(TemplateInvalidError):
        environment(tmp_path, content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"nothing\.env"):
        read_environment_file(tmp_path / "nothing.env")
