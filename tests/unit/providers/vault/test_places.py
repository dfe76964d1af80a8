"""Where a credential of the broker itself may stand, and what is refused there without showing it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from broker.errors import SettingsInvalidError, SourceUnavailableError
from broker.providers.own_variables import OwnVariables
from broker.providers.vault.places import Variable, read_place
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.settings import VaultSettings
from tests.contract.harness import tools
from tests.vaults import private

SETTING = "providers.vault.proxy.credentials"


def settings(**proxy: object) -> VaultSettings:
    section = {"address": "http://proxy.example:3128", **proxy}
    return VaultSettings.model_validate(
        {"address": "https://vault.example", "auth": {"token_file": "/run/token"}, "proxy": section}
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("${PROXY_LOGIN}", Variable("PROXY_LOGIN")),
        ("$PROXY_LOGIN", Variable("PROXY_LOGIN")),
        ("env:PROXY_LOGIN", Variable("PROXY_LOGIN")),
        ("/run/proxy", Path("/run/proxy")),
        ("file:/run/proxy", Path("/run/proxy")),
    ],
)
def test_a_credential_is_named_by_a_reference_that_needs_no_store(text: str, place: object) -> None:
    proxy = settings(credentials=text).proxy
    assert proxy is not None
    credential = proxy.credential("credentials")
    assert credential is not None
    assert (credential.setting, credential.place) == ("credentials", place)


def test_a_path_as_it_was_named_before_is_taken_as_it_is() -> None:
    proxy = settings(credentials_file="relative/proxy").proxy
    assert proxy is not None
    credential = proxy.credential("credentials")
    assert credential is not None
    assert (credential.setting, credential.place) == ("credentials_file", Path("relative/proxy"))


@pytest.mark.parametrize("text", ["vault:secret/proxy#login", "bao:secret/proxy#login"])
def test_a_reference_to_the_store_is_refused_because_it_leads_there(text: str) -> None:
    with pytest.raises(ValidationError, match="can't come from the store"):
        settings(credentials=text)


@pytest.mark.parametrize("text", ["name:canary", "canary", "", "relative/canary", "${canary}", "/canary/../x", 7, None])
def test_the_credential_itself_is_refused_and_not_shown(text: object) -> None:
    if text is None:
        assert settings(credentials=None).proxy is not None
        return
    with pytest.raises(ValidationError, match="by a reference") as caught:
        settings(credentials=text)
    assert "canary" not in str(caught.value)


def test_what_follows_the_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="as it stands"):
        settings(credentials="env:PROXY_LOGIN?decode=base64")


def test_two_spellings_at_once_are_refused() -> None:
    with pytest.raises(ValidationError, match="name one of credentials and credentials_file"):
        settings(credentials="${PROXY_LOGIN}", credentials_file="/run/proxy")


@pytest.mark.parametrize(
    "auth",
    [
        {"token": "${A}"},
        {"approle": {"role_id": "r", "secret_id": "${A}"}},
        {"approle": {"role_id": "r", "wrapped_secret_id": "${A}", "role_name": "r"}},
        {"jwt": {"role": "r", "token": "${A}"}},
        {"aws": {"role": "r", "access_key_id": "${B}", "secret_access_key": "${A}", "session_token": "${C}"}},
        {"unsafe_userpass": {"username": "r", "password": "${A}"}},
    ],
    ids=str,
)
def test_a_variable_that_is_not_declared_is_refused_at_the_start(auth: dict[str, object]) -> None:
    taken = VaultSettings.model_validate({"address": "https://vault.example", "auth": auth})
    with pytest.raises(SettingsInvalidError, match=r"auth\..*: [ABC] is not declared; add it to providers\.env\.own"):
        VaultProvider(settings=taken, tools=tools())


@pytest.mark.parametrize(
    "auth",
    [{"jwt": {"role": "r"}}, {"unsafe_userpass": {"username": "r"}}, {"aws": {"role": "r", "access_key_id": "${A}"}}],
    ids=str,
)
def test_a_login_without_its_credential_is_refused(auth: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="by a reference, or"):
        VaultSettings.model_validate({"address": "https://vault.example", "auth": auth})


# What stands in a variable.


def own(monkeypatch: pytest.MonkeyPatch, *files: Path, value: str | None = None) -> OwnVariables:
    if value is not None:
        monkeypatch.setenv("PROXY_LOGIN", value)
    return OwnVariables(names=["PROXY_LOGIN"], files=files)


def read(variables: OwnVariables) -> bytes:
    return read_place(Variable("PROXY_LOGIN"), setting=SETTING, own=variables)


def test_a_variable_is_read_as_it_was_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = own(monkeypatch, value="name:first")
    monkeypatch.setenv("PROXY_LOGIN", "name:second")
    assert read(variables) == b"name:first"


def test_a_variable_of_a_file_is_read_as_it_stands_now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = private(tmp_path / "own.env", "PROXY_LOGIN=name:first")
    variables = own(monkeypatch, file)
    private(file, "PROXY_LOGIN=name:second")
    assert read(variables) == b"name:second"


@pytest.mark.parametrize(
    ("text", "mode", "value", "reason"),
    [
        ("OTHER=x", 0o600, None, "PROXY_LOGIN is not set, or empty"),
        ("PROXY_LOGIN=", 0o600, None, "PROXY_LOGIN is not set, or empty"),
        ("PROXY_LOGIN=canary", 0o600, "canary", "PROXY_LOGIN is set in two places"),
        ("PROXY_LOGIN=canary", 0o644, None, "a file of providers.env.env_files can't be used"),
        ("canary", 0o600, None, "a file of providers.env.env_files can't be used"),
    ],
)
def test_a_variable_that_can_not_be_read_is_named_by_its_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, mode: int, value: str | None, reason: str
) -> None:
    file = private(tmp_path / "own.env", text)
    file.chmod(mode)
    with pytest.raises(SourceUnavailableError) as caught:
        read(own(monkeypatch, file, value=value))
    assert caught.value.detail.startswith(f"{SETTING}: ")
    assert reason in caught.value.detail
    assert "canary" not in caught.value.detail
    assert str(tmp_path) not in caught.value.detail
