"""The way to the store through real proxies: squid and dante."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.errors import SourceUnavailableError
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.trust import spki_pin
from broker.reference import parse
from tests.certificates import Files as Pair
from tests.certificates import TestAuthority
from tests.openbao import Files, OpenBao
from tests.proxies import Proxy, dante, squid
from tests.vaults import Seen, closing, private, provider_of
from tests.waiting import until

__all__ = ["closing"]

SECRET = parse("vault:secret/behind#v").source
LOGIN = "broker:canary-4711-geheim"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def own(authority: TestAuthority) -> Pair:
    """The store's certificate."""
    return authority.server()


@pytest.fixture(scope="module")
def store(own: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    it = OpenBao(tmp_path_factory.mktemp("bao"), tls=Files(own.certificate, own.key))
    it.mount("secret", "kv", {"version": "2"})
    it.put_secret("behind", v="x")
    yield it
    it.close()


@pytest.fixture(scope="module")
def demanding_squid() -> Iterator[Proxy]:
    with squid(login=LOGIN) as it:
        yield it


@pytest.fixture(scope="module")
def socks() -> Iterator[Proxy]:
    with dante() as it:
        yield it


@pytest.fixture
async def own_socks() -> AsyncIterator[tuple[int, list[tuple[str, str, str]]]]:
    """A SOCKS5 proxy that asks for a name and a password: dante would want a user of this machine."""
    seen: list[tuple[str, str, str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        await reader.readexactly(count)
        writer.write(b"\x05\x02")
        name = await reader.readexactly((await reader.readexactly(2))[1])
        password = await reader.readexactly((await reader.readexactly(1))[0])
        good = f"{name.decode()}:{password.decode()}" == LOGIN
        writer.write(b"\x01\x00" if good else b"\x01\x01")
        if not good:
            writer.close()
            return
        *_, kind = await reader.readexactly(4)
        raw = await reader.readexactly(4 if kind == 1 else (await reader.readexactly(1))[0])
        host = ".".join(str(octet) for octet in raw) if kind == 1 else raw.decode()
        port = int.from_bytes(await reader.readexactly(2), "big")
        seen.append((name.decode(), host, "address" if kind == 1 else "name"))
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        sink.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], seen
    server.close()


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
    store: OpenBao, authority: TestAuthority, demanding_squid: Proxy, tmp_path: Path
) -> None:
    proxy = with_login(tmp_path, f"http://127.0.0.1:{demanding_squid.port}")
    provider = provider_through(store, authority, tmp_path, proxy)
    assert (await provider.fetch(SECRET)).version == "1"
    await provider.aclose()
    await until(lambda: f"CONNECT localhost:{store.port}" in demanding_squid.asked)
    assert store.root_token not in demanding_squid.asked


@pytest.mark.parametrize("login", [None, "broker:wrong"])
async def test_an_http_proxy_that_does_not_know_the_broker_is_named(
    store: OpenBao, authority: TestAuthority, demanding_squid: Proxy, tmp_path: Path, login: str | None
) -> None:
    address = f"http://127.0.0.1:{demanding_squid.port}"
    proxy = {"address": address} if login is None else with_login(tmp_path, address, login)
    assert "the proxy refuses" in await refused(provider_through(store, authority, tmp_path, proxy))


async def test_proxy_credentials_that_were_replaced_are_used_at_once(
    store: OpenBao, authority: TestAuthority, demanding_squid: Proxy, tmp_path: Path
) -> None:
    proxy = with_login(tmp_path, f"http://127.0.0.1:{demanding_squid.port}", "broker:wrong")
    seen = Seen()
    provider = provider_through(store, authority, tmp_path, proxy, seen=seen)
    assert "the proxy refuses" in await refused(provider)
    private(tmp_path / "proxy", LOGIN)
    seen.advance(60)
    assert (await provider.fetch(SECRET)).version == "1"


async def test_a_tunnel_through_an_https_proxy_whose_key_is_not_the_stores(
    store: OpenBao, own: Pair, authority: TestAuthority, tmp_path: Path
) -> None:
    server = authority.server()
    with squid(tls=server) as it:
        proxy = {"address": f"https://127.0.0.1:{it.port}"}
        pins = [spki_pin(own.der), "sha256/" + "A" * 43 + "="]
        provider = provider_through(store, authority, tmp_path, proxy, pins=pins)
        assert (await provider.fetch(SECRET)).version == "1"
        await provider.aclose()
        await until(lambda: f"CONNECT localhost:{store.port}" in it.asked)


@pytest.mark.parametrize(("who", "kind"), [("proxy", "name"), ("broker", "address")])
async def test_socks5_with_credentials_resolves_the_name_where_it_is_told_to(
    store: OpenBao,
    authority: TestAuthority,
    own_socks: tuple[int, list[tuple[str, str, str]]],
    tmp_path: Path,
    who: str,
    kind: str,
) -> None:
    port, seen = own_socks
    proxy = {**with_login(tmp_path, f"socks5://127.0.0.1:{port}"), "resolve_names": who}
    provider = provider_through(store, authority, tmp_path, proxy)
    assert (await provider.fetch(SECRET)).version == "1"
    await provider.aclose()
    assert {(name, how) for name, _, how in seen} == {("broker", kind)}


async def test_socks5_with_a_wrong_password_is_named(
    store: OpenBao, authority: TestAuthority, own_socks: tuple[int, list[tuple[str, str, str]]], tmp_path: Path
) -> None:
    port, _ = own_socks
    proxy = with_login(tmp_path, f"socks5://127.0.0.1:{port}", "broker:wrong")
    assert "the proxy refuses" in await refused(provider_through(store, authority, tmp_path, proxy))


@pytest.mark.parametrize("who", ["proxy", "broker"])
async def test_a_way_through_dante(
    store: OpenBao, authority: TestAuthority, socks: Proxy, tmp_path: Path, who: str
) -> None:
    proxy = {"address": f"socks5://127.0.0.1:{socks.port}", "resolve_names": who}
    provider = provider_through(store, authority, tmp_path, proxy)
    assert (await provider.fetch(SECRET)).version == "1"
    await provider.aclose()
    await until(lambda: str(store.port) in socks.asked)


async def test_a_certificate_behind_socks5_is_verified(store: OpenBao, socks: Proxy, tmp_path: Path) -> None:
    stranger = TestAuthority(tmp_path / "other", common_name="somebody else")
    proxy = {"address": f"socks5://127.0.0.1:{socks.port}"}
    assert "certificate is not trusted" in await refused(provider_through(store, stranger, tmp_path, proxy))


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_a_proxy_that_is_not_there_is_named(
    store: OpenBao, authority: TestAuthority, tmp_path: Path, scheme: str
) -> None:
    proxy = {"address": f"{scheme}://127.0.0.1:1"}
    assert "the proxy can't be reached" in await refused(provider_through(store, authority, tmp_path, proxy))


async def test_an_address_in_no_proxy_is_reached_without_the_proxy(
    store: OpenBao, authority: TestAuthority, tmp_path: Path
) -> None:
    proxy = {"address": "http://127.0.0.1:1", "no_proxy": ["127.0.0.0/8"]}
    provider = provider_through(store, authority, tmp_path, proxy, address=store.address)
    assert (await provider.fetch(SECRET)).version == "1"
