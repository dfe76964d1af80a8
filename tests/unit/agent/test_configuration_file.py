"""`broker lint` and `broker render`: what they find in a configuration file, and what they leave alone."""

import json
from pathlib import Path

import pytest

from broker.agent.configuration_file import mentions
from tests.running import verb

CONFIGURATION = """\
# the shipper; the key was vault:secret/old#key before
endpoint: https://logs.example:443/vault:x
api_key: vault:secret/logflux#api_key
pat: ${LOGFLUX_PAT}
dsn: "postgres://app:${bao:secret/db#password}@db/app"   # not vault:secret/db#other
literal: $${HOME} $${vault:a/b#c}
list: [env:LOGFLUX_PAT, "file:/var/secrets/x"]
env: production
tls: file:///etc/x
"""


def found(text: str) -> list[tuple[int, int, str]]:
    return [(each.line, each.column, each.reference.text if each.reference else each.fault) for each in mentions(text)]


def test_references_are_found_with_their_places_and_comments_and_literals_are_not() -> None:
    assert found(CONFIGURATION) == [
        (4, 6, "env:LOGFLUX_PAT"),
        (5, 22, "vault:secret/db#password"),
        (3, 10, "vault:secret/logflux#api_key"),
        (7, 8, "env:LOGFLUX_PAT"),
        (7, 26, "file:/var/secrets/x"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "column", "told"),
    [
        ("a: 1\nb: vault://secret/x#y\n", 2, 4, "leave out the //"),
        ("a: 1\nb: vault:secret//x#y\n", 2, 17, "no empty segment"),
        ("b: ${valt:secret/x#y}", 1, 6, "a literal ${ is written $${"),
        ("b: ${NAME:-default}", 1, 6, "a literal ${ is written $${"),
        ("b: ${NAME", 1, 4, "not closed in its line"),
        ("b: ${}", 1, 6, "a literal ${ is written $${"),
        ("b: ${vault:x}", 1, 12, "mount and a path"),
    ],
)
def test_each_mistake_is_told_at_its_place(text: str, line: int, column: int, told: str) -> None:
    ((at_line, at_column, fault),) = found(text)
    assert ((at_line, at_column), told in fault) == ((line, column), True), fault


def test_lint_goes_on_behind_a_mistake_and_tells_all(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: ${\nb: ${x y}\nc: vault:a//b\nd: ${GOOD}\n")
    done = verb("lint", str(file))
    assert done.returncode == 3
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [f"{file}:1:4", f"{file}:2:6", f"{file}:3:12"]


def test_lint_of_a_good_file_counts_and_lists(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(CONFIGURATION)
    done = verb("lint", "--list", str(file))
    assert done.returncode == 0
    assert f"{file}:3:10: vault:secret/logflux#api_key" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1] == "nothing wrong: 5 references in 1 file"


def test_lint_speaks_json(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("k: ${vault:a/b#c}\nl: ${\n")
    done = verb("lint", "--json", str(tmp_path / "a"), str(tmp_path / "nosuch"))
    report = json.loads(done.stdout)
    assert (done.returncode, report["schema"]) == (3, 1)
    assert report["references"] == [
        {"file": str(tmp_path / "a"), "line": 1, "column": 4, "reference": "vault:a/b#c", "bare": False}
    ]
    assert [(fault["line"], fault["column"]) for fault in report["faults"]] == [(2, 4), (0, 0)]
    assert report["faults"][1]["detail"] == "No such file or directory"


@pytest.mark.parametrize(
    ("content", "told"), [(b"\xff", "is not UTF-8"), (b"x" * (1024 * 1024 + 1), "is larger than 1048576 bytes")]
)
def test_what_is_no_configuration_file_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "a"
    file.write_bytes(content)
    linted, rendered = verb("lint", str(file)), verb("render", str(file))
    assert (linted.returncode, rendered.returncode) == (3, 3)
    assert told in linted.stdout
    assert told in rendered.stderr


def test_render_refuses_what_would_stay_as_it_is_unless_told_to_keep_it(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: 1\napi_key: vault:secret/logflux#api_key\n")
    done = verb("render", str(file))
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{file}:2:10: a reference outside of ${{ }} would stay as it is" in done.stderr


def test_render_tells_a_mistake_with_file_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: 1\nb: ${\n")
    done = verb("render", str(file))
    assert (
        done.returncode,
        f"error[template_invalid]: {file}:2:4: this ${{ is not closed in its line" in done.stderr,
    ) == (
        3,
        True,
    )
