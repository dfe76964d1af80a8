import subprocess
from pathlib import Path

import pytest

from broker.__main__ import exit_status, main, message_of
from broker.errors import (
    AuditUnavailableError,
    BrokerError,
    MissingPart,
    PolicyInvalidError,
    SecretMissingError,
    SettingsInvalidError,
    SourceUnavailableError,
    StateUnavailableError,
)
from broker.verbs import VERBS, parser_of


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"broker {verb}" in capsys.readouterr().out


def test_the_top_help_names_every_verb_and_every_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(verb.name in text for verb in VERBS)
    assert all(f"\n  {status}  " in text for status in range(5))


@pytest.mark.parametrize("argv", [[], ["nothing"], ["get", "--nothing"], ["policy"]])
def test_a_wrong_command_line_ends_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SettingsInvalidError("x"), 3),
        (PolicyInvalidError("x"), 3),
        (SourceUnavailableError("x"), 4),
        (AuditUnavailableError("x"), 4),
        (StateUnavailableError("x"), 4),
        (SecretMissingError("x", part=MissingPart.PATH), 1),
    ],
)
def test_an_error_has_its_documented_status(error: BrokerError, status: int) -> None:
    assert exit_status(error) == status


def test_an_error_is_told_with_its_code_and_its_place() -> None:
    assert message_of(PolicyInvalidError("x", line=3, column=4)) == "broker: error[policy_invalid]: line 3, column 4: x"
    assert message_of(SettingsInvalidError("y")) == "broker: error[settings_invalid]: y"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_completion_is_printed_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "check-config" in capsys.readouterr().out


def test_bash_completes_commands_options_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "broker.bash"
    main(["completion", "bash"])
    script.write_text(capsys.readouterr().out)
    (tmp_path / "policy.yaml").touch()

    def completed(*words: str) -> list[str]:
        line = f"source {script}; COMP_WORDS=(broker {' '.join(words)}); COMP_CWORD={len(words)}; _shtab_broker"
        command = ["bash", "-c", f'{line}; printf "%s\\n" "${{COMPREPLY[@]}}"']
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()

    assert completed("check-c") == ["check-config"]
    assert completed("policy", "re") == ["review"]
    assert completed("audit", "search", "--unt") == ["--until"]
    assert completed("policy", "check", "pol") == ["policy.yaml"]
    assert completed("check-config", "--config", "pol") == ["policy.yaml"]


def test_the_parser_of_every_verb_can_be_built_at_once() -> None:
    assert parser_of(VERBS).prog == "broker"
