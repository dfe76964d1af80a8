"""The way to the store through real proxies: squid and dante."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.errors import SourceUnavailableError
from broker.providers.own_variables import OwnVariables
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.way.trust import spki_pin
from broker.reference import parse
from tests.certificates import Files as Pair
from tests.certificates import TestAuthority
from tests.openbao import OpenBao
from tests.proxies import Proxy, dante, squid
from tests.vaults import Seen, authority, closing, private, provider_of, secure, server
from tests.waiting import until

__all__ = ["authority", "closing", "secure", "server"]

SECRET = parse("vault:secret/way#v").source
LOGIN = "broker:canary-4711-geheim"


@pytest.fixture(scope="module")
def demanding_squid() -> Iterator[Proxy]:
    with squid(login=LOGIN) as it:
        yield it


@pytest.fixture(scope="module")
def demanding_tls_squid(authority: TestAuthority) -> Iterator[Proxy]:
    with squid(login=LOGIN, tls=authority.server()) as it:
        yield it


@pytest.fixture(scope="module")
def socks() -> Iterator[Proxy]:
    """A proxy that alone knows the store's name, and finds nobody at the one that the broker knows."""
    with dante(hosts="127.0.0.1 vault.behind\n127.0.0.9 localhost\n") as it:
        yield it


@pytest.fixture(scope="module")
def demanding_socks() -> Iterator[Proxy]:
    with dante(login=LOGIN) as it:
        yield it


def provider_through(
    store: OpenBao, authority: TestAuthority, directory: Path, proxy: dict[str, Any], **settings: Any
) -> VaultProvider:
    file = private(directory / "token", store.root_token)
    named = {"address": f"https://localhost:{store.port}", "ca_file": str(authority.ca_path), **settings}
    return provider_of(str(named.pop("address")), {"token_file": str(file)}, proxy=proxy, **named)


def with_login(directory: Path, address: str, login: str = LOGIN) -> dict[str, str]:
    return {"address": address, "credentials_file": str(private(directory / "proxy", login))}


async def refused(provider: VaultProvider) -> str:
    with pytest.raises(SourceUnavailableError) as caught:
        await provider.fetch(SECRET)
    assert "canary" not in repr(caught.value)
    assert "127.0.0.1" not in caught.value.detail
    return caught.value.detail


async def test_a_tunnel_through_an_http_proxy_with_credentials(
    secure: OpenBao, authority: TestAuthority, demanding_squid: Proxy, tmp_path: Path
) -> None:
    proxy = with_login(tmp_path, f"http://127.0.0.1:{demanding_squid.port}")
    provider = provider_through(secure, authority, tmp_path, proxy)
    assert (await provider.fetch(SECRET)).version == "1"
    await provider.aclose()
    await until(lambda: f"CONNECT localhost:{secure.port}" in demanding_squid.asked)
    assert secure.root_token not in demanding_squid.asked


@pytest.mark.parametrize("login", [None, "broker:wrong"])
async def test_an_http_proxy_that_does_not_know_the_broker_is_named(
    secure: OpenBao, authority: TestAuthority, demanding_squid: Proxy, tmp_path: Path, login: str | None
) -> None:
    address = f"http://127.0.0.1:{demanding_squid.port}"
    proxy = {"address": address} if login is None else with_login(tmp_path, address, login)
    assert "the proxy refuses" in await refused(provider_through(secure, authority, tmp_path, proxy))


async def test_proxy_credentials_that_were_replaced_are_used_at_once(
    secure: OpenBao, authority: TestAuthority, demanding_squid: Proxy, tmp_path: Path
) -> None:
    proxy = with_login(tmp_path, f"http://127.0.0.1:{demanding_squid.port}", "broker:wrong")
    seen = Seen()
    provider = provider_through(secure, authority, tmp_path, proxy, seen=seen)
    assert "the proxy refuses" in await refused(provider)
    private(tmp_path / "proxy", LOGIN)
    seen.advance(60)
    assert (await provider.fetch(SECRET)).version == "1"


async def test_a_tunnel_through_an_https_proxy_whose_key_is_not_the_stores(
    secure: OpenBao, server: Pair, authority: TestAuthority, tmp_path: Path
) -> None:
    with squid(tls=authority.server()) as it:
        proxy = {"address": f"https://127.0.0.1:{it.port}"}
        pins = [spki_pin(server.der), "sha256/" + "A" * 43 + "="]
        provider = provider_through(secure, authority, tmp_path, proxy, pins=pins)
        assert (await provider.fetch(SECRET)).version == "1"
        await provider.aclose()
        await until(lambda: f"CONNECT localhost:{secure.port}" in it.asked)


@pytest.mark.parametrize(("who", "name"), [("proxy", "vault.behind"), ("broker", "localhost")])
async def test_socks5_resolves_the_name_where_it_is_told_to(
    secure: OpenBao, authority: TestAuthority, socks: Proxy, tmp_path: Path, who: str, name: str
) -> None:
    proxy = {"address": f"socks5://127.0.0.1:{socks.port}", "resolve_names": who}
    provider = provider_through(secure, authority, tmp_path, proxy, address=f"https://{name}:{secure.port}")
    assert (await provider.fetch(SECRET)).version == "1"
    await provider.aclose()
    await until(lambda: str(secure.port) in socks.asked)


async def test_socks5_with_credentials(
    secure: OpenBao, authority: TestAuthority, demanding_socks: Proxy, tmp_path: Path
) -> None:
    proxy = with_login(tmp_path, f"socks5://127.0.0.1:{demanding_socks.port}")
    provider = provider_through(secure, authority, tmp_path, proxy)
    assert (await provider.fetch(SECRET)).version == "1"
    await provider.aclose()
    await until(lambda: "username%broker@" in demanding_socks.asked)


@pytest.mark.parametrize("login", [None, "broker:wrong"])
async def test_a_socks5_proxy_that_does_not_know_the_broker_is_named(
    secure: OpenBao, authority: TestAuthority, demanding_socks: Proxy, tmp_path: Path, login: str | None
) -> None:
    address = f"socks5://127.0.0.1:{demanding_socks.port}"
    proxy = {"address": address} if login is None else with_login(tmp_path, address, login)
    assert "the proxy refuses" in await refused(provider_through(secure, authority, tmp_path, proxy))


# Credentials by a reference.


@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
async def test_proxy_credentials_come_from_a_declared_variable(
    secure: OpenBao,
    authority: TestAuthority,
    demanding_squid: Proxy,
    demanding_tls_squid: Proxy,
    demanding_socks: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setenv("PROXY_LOGIN", LOGIN)
    own = OwnVariables(names=["PROXY_LOGIN"])
    monkeypatch.delenv("PROXY_LOGIN")
    asked = {"http": demanding_squid, "https": demanding_tls_squid, "socks5": demanding_socks}[kind]
    proxy = {"address": f"{kind}://127.0.0.1:{asked.port}", "credentials": "${PROXY_LOGIN}"}
    provider = provider_through(secure, authority, tmp_path, proxy, own=own)
    assert (await provider.fetch(SECRET)).version == "1"


async def test_proxy_credentials_in_an_env_file_are_followed(
    secure: OpenBao, authority: TestAuthority, demanding_squid: Proxy, tmp_path: Path
) -> None:
    file = private(tmp_path / "broker.env", "PROXY_LOGIN=broker:wrong\n")
    seen = Seen()
    proxy = {"address": f"http://127.0.0.1:{demanding_squid.port}", "credentials": "${PROXY_LOGIN}"}
    own = OwnVariables(names=["PROXY_LOGIN"], files=[file])
    provider = provider_through(secure, authority, tmp_path, proxy, own=own, seen=seen)
    assert "the proxy refuses" in await refused(provider)
    private(file, f"PROXY_LOGIN={LOGIN}\n")
    seen.advance(60)
    assert (await provider.fetch(SECRET)).version == "1"


async def test_proxy_credentials_come_from_a_file_that_a_reference_names(
    secure: OpenBao, authority: TestAuthority, demanding_squid: Proxy, tmp_path: Path
) -> None:
    file = private(tmp_path / "proxy", LOGIN)
    proxy = {"address": f"http://127.0.0.1:{demanding_squid.port}", "credentials": str(file)}
    assert (await provider_through(secure, authority, tmp_path, proxy).fetch(SECRET)).version == "1"
    file.chmod(0o644)
    detail = await refused(provider_through(secure, authority, tmp_path, proxy))
    assert detail.startswith("providers.vault.proxy.credentials: mode 0644")


async def test_a_certificate_behind_socks5_is_verified(secure: OpenBao, socks: Proxy, tmp_path: Path) -> None:
    stranger = TestAuthority(tmp_path / "other", common_name="somebody else")
    proxy = {"address": f"socks5://127.0.0.1:{socks.port}"}
    assert "certificate is not trusted" in await refused(
        provider_through(secure, stranger, tmp_path, proxy, address=secure.address)
    )


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_a_proxy_that_is_not_there_is_named(
    secure: OpenBao, authority: TestAuthority, tmp_path: Path, scheme: str
) -> None:
    proxy = {"address": f"{scheme}://127.0.0.1:1"}
    assert "the proxy can't be reached" in await refused(provider_through(secure, authority, tmp_path, proxy))


async def test_an_address_in_no_proxy_is_reached_without_the_proxy(
    secure: OpenBao, authority: TestAuthority, tmp_path: Path
) -> None:
    proxy = {"address": "http://127.0.0.1:1", "no_proxy": ["127.0.0.0/8"]}
    provider = provider_through(secure, authority, tmp_path, proxy, address=secure.address)
    assert (await provider.fetch(SECRET)).version == "1"
