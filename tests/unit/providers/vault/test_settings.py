"""The settings of the store: what is taken, and what is refused without showing it."""

import pytest
from pydantic import ValidationError

from broker.providers.vault.settings import VaultSettings

AUTH = {"token_file": "/run/token"}
PIN, SPARE = (f"sha256/{letter * 43}=" for letter in "AB")
PAIR = {"certificate_file": "/c", "key_file": "/k"}
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
        "https://vault.example/v1",
        "https://vault.example/team/",
        "https://vault.example\\@canary",
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
    ("address", "reason"),
    [
        ("https://user:canary@vault.example", "without user, query and fragment"),
        ("vault.example:8200", "the address is https://host:port"),
        ("https://vault.example/v1", "without a path: the broker adds /v1 by itself"),
        ("http://vault.example:8200", "http is taken for a loopback address alone; use https"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_an_address_that_is_refused_says_what_it_should_be(address: str, reason: str, *, several: bool) -> None:
    named = {"address": None, "addresses": ["https://vault.example", address]} if several else {"address": address}
    with pytest.raises(ValidationError, match=reason):
        settings(**named)


@pytest.mark.parametrize("namespace", ["..", "team/../other", "team/./one"])
def test_a_namespace_of_dots_alone_is_refused_with_what_it_should_be(namespace: str) -> None:
    with pytest.raises(ValidationError, match="none is made of dots alone"):
        settings(namespace=namespace)


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
        {"approle": {**APPROLE, "wrapped_secret_id_file": "/w", "role_name": "r"}},
        {"approle": {"role_id": "r", "wrapped_secret_id_file": "/w"}},
        {"approle": {**APPROLE, "role_name": "r"}},
        {"approle": {"role_id": "r", "wrapped_secret_id_file": "/w", "role_name": "../canary"}},
        {"jwt": {"token_file": "/t"}},
        {"jwt": {"role": "r", "token": "canary"}},
        {"kubernetes": {"role": "r"}, "jwt": {"role": "r", "token_file": "/t"}},
        {"certificate": {"certificate_file": "/c"}},
        {"aws": {"role": "r", "access_key_id_file": "/a", "secret_access_key": "canary"}},
        {"userpass": {"username": "u", "password_file": "/p"}},
        {"unsafe_userpass": {"username": "a/b", "password_file": "/p"}},
        {"token_file": "/t", "namespace": "a/../b"},
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
        {"namespace": ".."},
        {"namespace": "team/../other"},
        {"namespace": "team/./one"},
        {"namespace": "team//one"},
        {"namespace": "root"},
        {"namespace": "/"},
        {"address": None},
        {"addresses": ["https://two.example"]},
        {"address": None, "addresses": ["https://one.example", "https://one.example/"]},
        {"address": None, "addresses": ["https://one.example", "http://two.example"]},
        {"pins": [PIN]},
        {"pins": [PIN, PIN]},
        {"pins": [PIN, PIN[:-2] + chr(ord(PIN[-2]) + 1) + "="]},
        {"pins": [PIN, "sha256/short="]},
        {"address": "http://127.0.0.1:1", "pins": [PIN, SPARE]},
        {"address": "http://127.0.0.1:1", "auth": {"certificate": PAIR}},
        {"address": "http://127.0.0.1:1", "proxy": {"address": "http://proxy.example:1"}},
        {"login_timeouts": {"total_seconds": 0}},
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


@pytest.mark.parametrize(("written", "meant"), [("team", "team"), ("/team.one/b/", "team.one/b")])
def test_a_namespace_has_one_form_and_may_have_dots_inside(written: str, meant: str) -> None:
    assert settings(namespace=written).namespace == meant


def test_the_root_namespace_of_a_login_is_named_by_a_slash() -> None:
    assert settings(namespace="team", auth={**AUTH, "namespace": "/"}).auth.namespace == "/"


def test_addresses_keep_their_order() -> None:
    addresses = ("https://two.example", "https://one.example")
    assert settings(address=None, addresses=addresses).endpoints == addresses


def test_an_http_address_that_needs_no_proxy_is_taken_beside_one() -> None:
    proxy = {"address": "http://proxy.example:1", "no_proxy": ["127.0.0.0/8"]}
    assert settings(address="http://127.0.0.1:1", proxy=proxy).proxy is not None


def test_a_class_of_requests_takes_what_it_leaves_out_from_the_reads() -> None:
    found = settings(total_seconds=5, login_timeouts={"connect_seconds": 1}).timeouts
    assert (found["read"].read_seconds, found["read"].total_seconds) == (5, 5)
    assert (found["login"].connect_seconds, found["login"].total_seconds) == (1, 5)
    assert found["health"] == found["read"]
