"""What a real store says when it refuses: kept for the record, in words that can hold no value."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import (
    FetchError,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.providers.base import Grip, Parent
from broker.reference import parse
from broker.source_words import SourceWords
from tests.openbao import OpenBao
from tests.vaults import closing, token_provider

__all__ = ["closing"]

# The engine puts it into its error when the database can't be reached.
ECHOED = "kanarie4711geheim"
DATABASE_AWAY = (
    "500 unable to start transaction: failed to connect to … dial error: dial tcp … connect: connection refused"
)
BROKER_RULES = """
path "secret/data/app" { capabilities = ["read"] }
path "pki/*" { capabilities = ["read", "update"] }
path "transit/*" { capabilities = ["update"] }
path "database/*" { capabilities = ["read"] }
path "team1/kv/open" { capabilities = ["read"] }
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    it = OpenBao(tmp_path_factory.mktemp("words"))
    it.mount("pki", "pki")
    it.write("pki/root/generate/internal", {"common_name": "r", "ttl": "24h"})
    it.write("pki/roles/agent", {"allowed_domains": "a.example", "allow_bare_domains": True, "max_ttl": "1h"})
    it.mount("transit", "transit")
    it.write("transit/keys/app")
    it.mount("database", "database")
    connection = "user='{{username}}' password='{{password}}' host=127.0.0.1 port=1 dbname=app sslmode=disable"
    it.write(
        "database/config/pg",
        {
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": "app",
            "username": ECHOED,
            "password": "x",
            "verify_connection": False,
            "connection_url": connection,
        },
    )
    it.write("database/roles/app", {"db_name": "pg", "creation_statements": ["x"]})
    it.namespace("team1")
    assert it.request("POST", "sys/mounts/kv", {"type": "kv"}, namespace="team1").status == 204
    it.policy("broker", BROKER_RULES)
    yield it
    it.close()


async def words_of(
    store: OpenBao, directory: Path, text: str, *, mints: bool = False
) -> tuple[FetchError, SourceWords]:
    provider = token_provider(store, directory, store.token("broker"))
    source = parse(text).source
    with pytest.raises(FetchError) as caught:
        await (provider.mint(source, Parent()) if mints else provider.fetch(source))
    assert caught.value.words is not None
    for shown in (str(caught.value), repr(caught.value), caught.value.detail):
        assert caught.value.words.asked not in shown
        assert caught.value.words.said not in shown
    return caught.value, caught.value.words


@pytest.mark.parametrize(
    ("text", "kind", "asked", "said"),
    [
        ("vault:secret/other#v", UpstreamDeniedError, "GET secret/data/other", "403 permission denied"),
        ("vault:secret/app/née#v", UpstreamDeniedError, "GET secret/data/app/née", "403 permission denied"),
        ("vault:secret/app#v", SecretMissingError, "GET secret/data/app", "404"),
        ("vault:team1/kv/shut#v", UpstreamDeniedError, "GET team1/kv/shut", "403 permission denied"),
        (
            "vault:cubbyhole2/x#v",
            UpstreamDeniedError,
            "GET sys/internal/ui/mounts/cubbyhole2/x",
            "403 preflight capability check returned … please ensure client's policies grant access to path …",
        ),
        (
            "vault:transit/decrypt/app?ciphertext=Kanarie#plaintext",
            SecretUnusableError,
            "POST transit/decrypt/app",
            "400 invalid ciphertext: no prefix",
        ),
        (
            "vault:transit/sign/none?input=YQ==#signature",
            SecretMissingError,
            "POST transit/sign/none",
            "400 signing key not found",
        ),
    ],
)
async def test_a_refused_read_keeps_what_was_asked_and_what_the_store_said(
    store: OpenBao, tmp_path: Path, text: str, kind: type[FetchError], asked: str, said: str
) -> None:
    error, words = await words_of(store, tmp_path, text)
    assert isinstance(error, kind)
    assert (words.asked, words.said) == (asked, said)


@pytest.mark.parametrize(
    ("text", "kind", "asked", "said"),
    [
        (
            "vault:pki/issue/agent?common_name=b.example#certificate",
            SecretUnusableError,
            "POST pki/issue/agent",
            "400 common name … not allowed by this role",
        ),
        (
            "vault:pki/issue/nobody?common_name=a.example#certificate",
            SecretMissingError,
            "POST pki/issue/nobody",
            "400 unknown role: …",
        ),
        (
            "vault:database/creds/app#password",
            SourceUnavailableError,
            "GET database/creds/app",
            DATABASE_AWAY,
        ),
    ],
)
async def test_what_an_engine_refuses_to_make_is_told_in_its_words_without_what_it_echoes(
    store: OpenBao, tmp_path: Path, text: str, kind: type[FetchError], asked: str, said: str
) -> None:
    error, words = await words_of(store, tmp_path, text, mints=True)
    assert isinstance(error, kind)
    assert (words.asked, words.said) == (asked, said)


def test_the_engine_does_echo_what_is_left_out(store: OpenBao) -> None:
    assert ECHOED in str(store.request("GET", "database/creds/app").document["errors"])


async def test_a_revocation_that_the_store_denies_is_told_in_its_words(store: OpenBao, tmp_path: Path) -> None:
    provider = token_provider(store, tmp_path, store.token("broker"))
    with pytest.raises(UpstreamDeniedError) as caught:
        await provider.revoke(Grip(handle="database/creds/app/x", parent=""))
    assert caught.value.words is not None
    assert (caught.value.words.asked, caught.value.words.said) == ("PUT sys/leases/revoke", "403 permission denied")


async def test_the_namespace_of_the_settings_is_part_of_what_was_asked(store: OpenBao, tmp_path: Path) -> None:
    provider = token_provider(store, tmp_path, store.token("broker"), namespace="team1")
    with pytest.raises(UpstreamDeniedError) as caught:
        await provider.fetch(parse("vault:kv/shut#v").source)
    assert caught.value.words is not None
    assert caught.value.words.asked == "GET team1/kv/shut"


async def test_a_refused_login_is_logged_in_the_stores_words(
    store: OpenBao, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider = token_provider(store, tmp_path, ECHOED)
    with pytest.raises(SourceUnavailableError):
        await provider.ping()
    assert "store_login_refused said=403 permission denied" in caplog.text.replace('"', "")
    assert ECHOED not in caplog.text
