from pathlib import Path

import pytest

from broker.config_source import SettingsFaultsError, SettingsSource, read_settings
from broker.errors import SettingsInvalidError
from broker.finding import Finding

ROOT = Path(__file__).parents[2]
GOOD = """\
state_directory: /tmp/state
policy_file: /tmp/policy.yaml
tls: { certificate: /c, key: /k, client_ca: /a }
"""


def settings_file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "broker.yaml"
    file.write_text(text)
    return file


def refused(file: Path | None) -> str:
    with pytest.raises(SettingsInvalidError) as raised:
        read_settings(file, environment={})
    return raised.value.detail


def findings(file: Path) -> tuple[Finding, ...]:
    with pytest.raises(SettingsFaultsError) as raised:
        read_settings(file, environment={})
    return raised.value.findings


def test_defaults_are_safe(tmp_path: Path) -> None:
    settings = read_settings(settings_file(tmp_path, GOOD))
    assert settings.listen.host == settings.operations.host == "127.0.0.1"
    assert settings.tls.minimum == "1.3"
    assert settings.providers == {}


def test_the_shipped_example_is_good() -> None:
    settings = read_settings(ROOT / "deploy" / "config" / "broker.yaml")
    assert set(settings.providers) == {"env", "file", "vault"}


def test_an_unknown_key_is_refused_by_its_place(tmp_path: Path) -> None:
    assert "listen.prot" in refused(settings_file(tmp_path, GOOD + "listen: { prot: 1 }\n"))


def test_a_wrong_type_is_refused_by_its_place_and_never_by_its_content(tmp_path: Path) -> None:
    detail = refused(settings_file(tmp_path, GOOD + "listen: { port: hunter2 }\n"))
    assert "listen.port" in detail
    assert "hunter2" not in detail


def test_a_number_out_of_range_is_refused(tmp_path: Path) -> None:
    assert "listen.port" in refused(settings_file(tmp_path, GOOD + "listen: { port: 70000 }\n"))


def test_two_webhook_keys_in_files_of_one_name_are_refused(tmp_path: Path) -> None:
    detail = refused(settings_file(tmp_path, GOOD + "webhook: { key_files: [/old/webhook.key, /new/webhook.key] }\n"))
    assert "webhook.key_files" in detail
    assert "same name" in detail


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    assert "policy_file" in refused(settings_file(tmp_path, "state_directory: /tmp\n"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "nothing.yaml" in refused(tmp_path / "nothing.yaml")


def test_broken_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    assert "line 5" in refused(settings_file(tmp_path, GOOD + "listen: {}\nlisten: {}\n"))


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGFLUX_LISTEN__PORT", "9443")
    assert read_settings(settings_file(tmp_path, GOOD + "listen: { port: 1234 }\n")).listen.port == 9443


def test_logflux_config_names_the_file(tmp_path: Path) -> None:
    file = settings_file(tmp_path, GOOD)
    assert read_settings(None, environment={"LOGFLUX_CONFIG": str(file)}).policy_file == Path("/tmp/policy.yaml")


def test_settings_can_not_be_changed(tmp_path: Path) -> None:
    settings = read_settings(settings_file(tmp_path, GOOD))
    with pytest.raises(ValueError, match="frozen"):
        settings.listen.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("listen: { prot: 1 }\n", "did you mean port?"),
        ("client_crl: /crl\n", "did you mean tls.client_crl, which belongs there?"),
        ("operations: { zzz: {} }\n", "correct it to one of host, port"),
    ],
)
def test_an_unknown_key_is_told_with_what_was_probably_meant(tmp_path: Path, text: str, told: str) -> None:
    assert told in findings(settings_file(tmp_path, GOOD + text))[0].fix


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cache: { max_bytes: 64MiB }\n", "write the number of bytes, without a unit"),
        ("listen: { idle_seconds: 30s }\n", "write the number of seconds, without a unit"),
        ("limits: { identity_requests_per_second: fast }\n", "write the number of requests in a second"),
        ("listen: { port: hunter2 }\n", "write a number, without quotes"),
    ],
)
def test_a_number_with_a_unit_is_told_how_to_write_it(tmp_path: Path, text: str, told: str) -> None:
    assert told in findings(settings_file(tmp_path, GOOD + text))[0].fix


def test_a_misspelt_key_comes_before_the_one_that_is_missing_for_it(tmp_path: Path) -> None:
    first, second = findings(settings_file(tmp_path, GOOD.replace("policy_file", "policyfile")))
    assert (first.code, first.fix) == ("setting_unknown", "did you mean policy_file?")
    assert second.code == "setting_missing"


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("LOGFLUX_LISTENN__PORT", "did you mean LOGFLUX_LISTEN__PORT?"),
        ("LOGFLUX_POLICYFILE", "did you mean LOGFLUX_POLICY_FILE?"),
        ("LOGFLUX_LOGLEVEL", "did you mean LOGFLUX_LOG_LEVEL?"),
        ("LOGFLUX_STORE__ADDRESS", "remove it, or correct it"),
    ],
)
def test_a_variable_that_is_nearly_a_setting_is_told(tmp_path: Path, variable: str, told: str) -> None:
    source = SettingsSource(settings_file(tmp_path, GOOD), environment={variable: "x"})
    (finding,) = source.unknown_variables()
    assert (finding.code, finding.where) == ("variable_unknown", variable)
    assert told in finding.fix


def test_other_variables_with_our_prefix_are_nobodys_mistake(tmp_path: Path) -> None:
    others = ("LOGFLUX_PAT", "LOGFLUX_BROKER_URL", "LOGFLUX_BROKER_CA", "LOGFLUX_AGENT_CERT", "LOGFLUX_AGENT_KEY")
    fine = ("LOGFLUX_LISTEN__PORT", "logflux_policy_file", "LOGFLUX_PROVIDERS__VAULT__ADDRESS")
    source = SettingsSource(settings_file(tmp_path, GOOD), environment=dict.fromkeys((*others, *fine), "x"))
    assert source.unknown_variables() == []
