"""The settings of the store: what is taken, and what is refused without showing it."""

import pytest
from pydantic import ValidationError

from broker.providers.vault.settings import VaultSettings

AUTH = {"token_file": "/run/token"}
APPROLE = {"role_id": "r", "secret_id_file": "/run/secret_id"}


def settings(**changes: object) -> VaultSettings:
    return VaultSettings.model_validate({"address": "https://vault.example:8200", "auth": AUTH, **changes})


@pytest.mark.parametrize(
    "address",
    [
        "https://vault.example",
        "https://vault.example:8200/",
        "http://127.0.0.1:8200",
        "http://[::1]:1",
        "http://localhost:1",
    ],
)
def test_https_anywhere_and_http_on_the_loopback_are_taken(address: str) -> None:
    assert settings(address=address).address == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    [
        "http://vault.example:8200",
        "http://10.0.0.1",
        "http://localhost.example",
        "https://",
        "vault.example:8200",
        "https://user:canary@vault.example",
        "https://vault.example/?token=canary",
        "https://vault.example/#x",
        "https://vault.example:99999",
        "https://vault.example:port",
        "https://vault.exa mple",
        "https://vault.example/\r\nX: y",
        "ftp://vault.example",
        "https://[::1",
    ],
)
def test_any_other_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(address=address)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "auth",
    [
        {},
        {"token_file": "/t", "approle": APPROLE},
        {"approle": {"secret_id_file": "/s"}},
        {"approle": {**APPROLE, "role_id_file": "/r"}},
        {"approle": {**APPROLE, "secret_id": "canary"}},
        {"approle": {**APPROLE, "mount": "../sys"}},
        {"approle": {**APPROLE, "mount": ""}},
        {"approle": {**APPROLE, "role_id": "a\nb"}},
        {"token": "canary"},
    ],
)
def test_exactly_one_way_to_log_in_is_named_and_no_secret_stands_in_the_settings(auth: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(auth=auth)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace": "a\r\nX-Vault-Token: b"},
        {"namespace": ""},
        {"connect_seconds": 0},
        {"total_seconds": "fast"},
        {"max_connections": 0},
        {"requests_per_second": -1},
        {"max_answer_bytes": 1},
        {"timeout": 3},
    ],
)
def test_settings_that_are_unknown_or_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        settings(**changes)


def test_the_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        settings().address = "https://other.example"
