"""`broker policy`: what it prints and how it exits."""

import argparse
import json
from pathlib import Path

import pytest

from broker.cli import policy as command
from broker.errors import MalformedReferenceError, PolicyInvalidError, ScopeRefusedError

EXAMPLE = Path(__file__).parents[3] / "deploy" / "policies" / "example.yaml"
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
