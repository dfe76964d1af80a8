"""`broker policy`: what it prints and how it exits."""

import argparse
import json
from pathlib import Path

import pytest

from broker.cli import policy as command
from broker.errors import DocumentInvalidError, MalformedReferenceError, PolicyInvalidError, ScopeRefusedError

EXAMPLE = Path(__file__).parents[3] / "deploy" / "policies" / "example.yaml"
EXPECTATIONS = EXAMPLE.parent / "expectations" / "example.yaml"
SHIPPER = "spiffe://prod.example/logflux/shipper"
MONDAY_NIGHT = "2026-01-05T23:00:00Z"


def run(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="broker policy", formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def explain(*words: str, identity: str = SHIPPER, reference: str = "vault:secret/logflux#api_key") -> int:
    return run("explain", "--policy", str(EXAMPLE), "--identity", identity, "--reference", reference, *words)


def test_check_says_that_a_good_file_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(EXAMPLE)) == 0
    assert "good, 4 rules" in capsys.readouterr().out


def test_check_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(EXAMPLE), "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"] is True
    assert len(answer["digest"]) == 64


def test_check_of_a_bad_file_tells_line_and_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("identities: {a: {dns: a.example}}\nrules: []\n")
    with pytest.raises(PolicyInvalidError) as caught:
        run("check", str(bad))
    assert (caught.value.line, caught.value.column) == (2, 8)
    assert str(bad) in caught.value.detail
    assert run("check", str(bad), "--json") == 3
    answer = json.loads(capsys.readouterr().out)
    assert (answer["valid"], answer["code"], answer["line"], answer["column"]) == (False, "policy_invalid", 2, 8)


def test_a_file_that_is_not_there_is_a_bad_file(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalidError, match="name a readable policy file"):
        run("check", str(tmp_path / "none.yaml"))


def test_explain_exits_with_0_when_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain() == 0
    printed = capsys.readouterr().out
    assert printed.startswith("ALLOWED by rule 'the shipper reads its own credentials' (fresh for 300 s")
    assert "-> allow the shipper reads its own credentials: counts (networks holds)" in printed
    assert "the backup runs at night with a token: other_identity (it is for backup-job)" in printed
    assert "nobody reads the root credentials: other_reference" in printed


@pytest.mark.parametrize(
    "reference",
    ["${LOGFLUX_PAT}", "/var/secrets/logflux/tls.key", "vault:secret/logflux#api_key", "vault:secret/logflux#/a/b"],
)
def test_the_guides_references_are_allowed_to_the_shipper(reference: str) -> None:
    assert explain(reference=reference) == 0


@pytest.mark.parametrize(
    ("words", "identity", "reference", "reason"),
    [
        (["--address", "192.0.2.1"], SHIPPER, "vault:secret/logflux#api_key", "condition"),
        ([], SHIPPER, "vault:secret/other#api_key", "no_rule"),
        ([], SHIPPER, "vault:secret/staging/logflux#a", "environment"),
        ([], SHIPPER, "vault:secret/prod/root#a", "deny_rule by rule 'nobody reads the root credentials'"),
        ([], "stranger.example", "env:LOGFLUX_PAT", "unknown_identity"),
        (["--scope", "env:LOGFLUX_PAT"], SHIPPER, "vault:secret/logflux#api_key", "scope"),
        (["--at", MONDAY_NIGHT], "backup.prod.example", "vault:secret/prod/backup#password", "condition"),
    ],
)
def test_explain_exits_with_1_and_the_reason_when_denied(
    words: list[str], identity: str, reference: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(*words, identity=identity, reference=reference) == 1
    assert capsys.readouterr().out.startswith(f"DENIED: {reason}\n")


def test_explain_takes_time_and_scope_as_given() -> None:
    reference = "vault:secret/prod/backup#password"
    words = ("--scope", reference)
    assert explain(*words, "--at", MONDAY_NIGHT, identity="Backup.prod.example", reference=reference) == 0
    assert explain(*words, "--at", "2026-01-05T12:00:00", identity="backup.prod.example", reference=reference) == 1


def test_explain_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain("--json", reference="$LOGFLUX_PAT") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["decision"] == {
        "allowed": True,
        "rule": "the shipper reads its own credentials",
        "younger_than": None,
        "fresh_for": 300.0,
        "max_stale": 3600.0,
    }
    assert (answer["reference"], answer["entry"], answer["environment"]) == ("env:LOGFLUX_PAT", "shipper", "production")
    assert [finding["outcome"] for finding in answer["findings"]] == [
        "counts",
        "other_identity",
        "other_identity",
        "other_reference",
    ]


def test_explain_refuses_what_is_no_reference_and_no_scope() -> None:
    with pytest.raises(MalformedReferenceError):
        explain(reference="password")
    with pytest.raises(ScopeRefusedError):
        explain("--scope", "nothing")


@pytest.mark.parametrize(("option", "value"), [("--address", "office"), ("--at", "yesterday")])
def test_a_wrong_option_exits_with_2(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        explain(option, value)
    assert caught.value.code == 2
    assert value in capsys.readouterr().err


@pytest.mark.parametrize(
    ("identity", "reference", "hint"),
    [
        ("shipper", "env:LOGFLUX_PAT", "--identity is the name in a certificate: spiffe://prod.example/logflux/*"),
        ("backups.prod.example", "env:LOGFLUX_PAT", "the policy knows backup.prod.example"),
        (SHIPPER, "env:LOGFLUX_PTA", "shipper may read env:LOGFLUX_PAT"),
    ],
)
def test_a_denial_after_a_typing_error_has_a_hint(
    identity: str, reference: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(identity=identity, reference=reference) == 1
    assert hint in capsys.readouterr().out.splitlines()[-1]
    explain("--json", identity=identity, reference=reference)
    assert hint in json.loads(capsys.readouterr().out)["hint"]


def test_a_denial_that_is_meant_has_no_hint(capsys: pytest.CaptureFixture[str]) -> None:
    explain(reference="vault:secret/prod/root#a")
    assert "hint" not in capsys.readouterr().out


def test_review_shows_every_identity_with_its_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("review", str(EXAMPLE)) == 0
    printed = capsys.readouterr().out
    assert "shipper (spiffe://prod.example/logflux/*, environment production)" in printed
    assert "  reads from 10.0.0.0/8, 127.0.0.0/8, by rule 'the shipper reads its own credentials':" in printed
    assert "  never, by rule 'nobody reads the root credentials':" in printed


def test_review_of_a_reference_shows_who_may_read_it_and_exits_with_1_for_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("review", str(EXAMPLE), "--reference", "vault:secret/logflux#api_key") == 0
    printed = capsys.readouterr().out
    assert ("shipper (" in printed, "staging-shipper" in printed, "backup-job" in printed) == (True, False, False)
    assert run("review", str(EXAMPLE), "--reference", "vault:secret/prod/root#a") == 1
    assert capsys.readouterr().out == "nobody may read it\n"


def test_review_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("review", str(EXAMPLE), "--json", "--reference", "env:LOGFLUX_PAT") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["reference"]) == (1, "env:LOGFLUX_PAT")
    assert {entry["name"]: entry["verdict"] for entry in answer["identities"]} == {
        "shipper": "sometimes",
        "staging-shipper": "never",
        "backup-job": "never",
    }


def test_review_tells_who_gives_orders_and_who_reads_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "identities: {a: {dns: a.example}, b: {dns: b.example}, c: {dns: c.example}}\nadministrators: [a]\n"
        'rules: [{name: one, allow: ["env:A"], to: [c]}]\n'
    )
    assert run("review", str(file)) == 0
    printed = capsys.readouterr().out
    assert "a (a.example)\n  gives orders to the broker, and reads nothing\n" in printed
    assert "b (b.example)\n  reads nothing\n" in printed


def test_the_shipped_expectations_are_met_by_the_shipped_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test", "--policy", str(EXAMPLE), str(EXPECTATIONS)) == 0
    assert capsys.readouterr().out == "5 of 5 expectations are met\n"


def test_an_expectation_that_is_not_met_is_told_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "expectations.yaml"
    asked = 'identity: "spiffe://prod.example/logflux/shipper", reference: "vault:secret/logflux#api_key"'
    file.write_text(f"expectations:\n  - {{ {asked}, expect: no_rule }}\n  - {{ {asked}, expect: allowed }}\n")
    assert run("test", "--policy", str(EXAMPLE), str(file)) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{file}:2: {SHIPPER} vault:secret/logflux#api_key: expected no_rule, is allowed by rule")
    assert last == "1 of 2 expectations are met"
    assert run("test", "--policy", str(EXAMPLE), str(file), "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["expectations"], [each["line"] for each in answer["failed"]]) == (2, [2])


GOOD = 'identity: a.example, reference: "env:A", expect: denied'


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("expectations: []", 1, "empty; write at least one"),
        ("expectation: []", 1, "unknown key; the keys here are expectations"),
        ("expectations: x", 1, "write a list of mappings under expectations"),
        (f"expectations:\n - {{ {GOOD}, expects: x }}", 2, "1.expects: unknown key; the keys here are identity"),
        ('expectations:\n - { identity: a.example, reference: "env:A" }', 2, "1.expect: missing; add it"),
        (f"expectations:\n - {{ {GOOD.replace('denied', 'nope')} }}", 2, "write one of allowed, denied, unknown"),
        (f"expectations:\n - {{ {GOOD.replace('env:A', 'x')} }}", 2, "character 1 of the reference"),
        (f"expectations:\n - {{ {GOOD}, address: x }}", 2, "no IP address"),
        (f"expectations:\n - {{ {GOOD}, at: noon }}", 2, "no time; write it as 2026"),
        (f"expectations:\n - {{ {GOOD}, scope: x }}", 2, "pattern 1 of the scope"),
    ],
)
def test_a_bad_file_of_expectations_is_told_with_its_place(tmp_path: Path, text: str, line: int, told: str) -> None:
    file = tmp_path / "expectations.yaml"
    file.write_text(text + "\n")
    with pytest.raises(DocumentInvalidError) as caught:
        run("test", "--policy", str(EXAMPLE), str(file))
    assert (caught.value.line, told in caught.value.detail) == (line, True), caught.value.detail
    assert str(file) in caught.value.detail


def test_expectations_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentInvalidError, match="name a readable file"):
        run("test", "--policy", str(EXAMPLE), str(tmp_path / "none.yaml"))
