"""`broker config show`: every setting with its origin, and no secret."""

import json
from pathlib import Path
from typing import Any

import pytest

from broker.__main__ import main
from broker.config import Settings

TEXT = """\
state_directory: /var/lib/broker
policy_file: /etc/policy.yaml
tls: { certificate: /c, key: /k, client_ca: /a }
listen:
  port: 9443
providers:
  env: { names: [A_NAME] }
  vault:
    address: https://vault.example:8200
    auth: { token_file: %s }
"""


def shown(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert main(["config", "show", "--config", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == 1
    return {setting["name"]: setting for setting in report["settings"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    token = tmp_path / "token"
    token.write_text("canary-of-the-token")
    settings = tmp_path / "broker.yaml"
    settings.write_text(TEXT % token)
    return settings


def test_a_default_the_file_and_a_variable_are_told_apart(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGFLUX_LISTEN__HOST", "127.0.0.2")
    monkeypatch.setenv("LOGFLUX_PROVIDERS__VAULT__TOTAL_SECONDS", "7")
    settings = shown(file, capsys)
    told = {name: (one["value"], one["origin"], one["where"]) for name, one in settings.items()}
    assert told["config"] == (str(file), "flag", "--config")
    assert told["listen.port"] == (9443, "file", f"{file}:5")
    assert told["listen.host"] == ("127.0.0.2", "environment", "LOGFLUX_LISTEN__HOST")
    assert told["listen.idle_seconds"] == (30.0, "default", "")
    assert told["providers.env.names"] == (["A_NAME"], "file", f"{file}:7")
    assert told["providers.env.allow_empty"] == (False, "default", "")
    assert told["providers.vault.total_seconds"][:2] == (7.0, "environment")


def test_a_variable_that_sets_a_whole_section_is_named(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGFLUX_OPERATIONS", '{"port": 9999}')
    one = shown(file, capsys)["operations.port"]
    assert (one["value"], one["origin"], one["where"]) == (9999, "environment", "LOGFLUX_OPERATIONS")


def test_every_setting_is_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {name.partition(".")[0] for name in shown(file, capsys)}
    assert names == {"config", *Settings.model_fields}


def test_the_readable_form_has_a_line_a_setting_and_no_file_s_content(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "show", "--config", str(file)]) == 0
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if line.startswith("listen.port ")]
    assert line.split() == ["listen.port", "9443", "file", f"({file}:5)"]
    assert "canary-of-the-token" not in out


def test_settings_that_can_not_be_used_end_with_3_and_no_value(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text() + "token: hunter2\n")
    assert main(["config", "show", "--config", str(file)]) == 3
    captured = capsys.readouterr()
    assert "token" in captured.err
    assert "hunter2" not in captured.out + captured.err
