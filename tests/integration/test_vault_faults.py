"""What the provider makes of a store that is sealed, hanging, gone, not the store, or not trusted."""

import asyncio
import contextlib
import datetime as dt
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.errors import FetchError, SecretUnusableError, SourceUnavailableError
from broker.providers.vault.provider import VaultProvider
from broker.reference import parse
from tests.certificates import TestAuthority
from tests.openbao import Files, OpenBao
from tests.vaults import Seen, approle_provider, closing, private, provider_of, token_provider
from tests.waiting import until

__all__ = ["closing"]

SECRET = parse("vault:secret/app#v").source
CANARY = "canary-4711-geheim"
TOKEN = "s.token-of-the-broker"


async def unavailable(provider: VaultProvider) -> SourceUnavailableError:
    with pytest.raises(SourceUnavailableError) as caught:
        await provider.fetch(SECRET)
    for shown in (str(caught.value), repr(caught.value)):
        assert "127.0.0.1" not in shown
        assert "http" not in shown.replace("https host", "")
        assert CANARY not in shown
        assert TOKEN not in shown
    return caught.value


async def unready(provider: VaultProvider) -> SourceUnavailableError:
    with pytest.raises(SourceUnavailableError) as caught:
        await provider.ping()
    return caught.value


# A real store.


async def test_a_sealed_store_is_unavailable_and_heals_with_the_same_token(
    own_openbao: OpenBao, tmp_path: Path
) -> None:
    own_openbao.put_secret("app", v="x")
    seen = Seen()
    provider = token_provider(own_openbao, tmp_path, own_openbao.root_token, seen=seen)
    await provider.ping()
    await provider.fetch(SECRET)
    own_openbao.seal()
    assert (await unavailable(provider)).detail == "the store is sealed"
    assert (await unready(provider)).detail == "the store is sealed"
    own_openbao.unseal()
    assert (await unavailable(provider)).detail == "the store is sealed", "it is not time to look again"
    seen.advance(5)
    await provider.ping()
    assert (await provider.fetch(SECRET)).version == "1"
    assert seen.count("lookup") <= 2, "a sealed store says nothing about the token"


async def test_a_hanging_store_times_out_and_goes_on_afterwards(own_openbao: OpenBao, tmp_path: Path) -> None:
    own_openbao.put_secret("app", v="x")
    provider = token_provider(own_openbao, tmp_path, own_openbao.root_token, total_seconds=0.4)
    await provider.fetch(SECRET)
    own_openbao.stop()
    began = time.monotonic()
    assert (await unavailable(provider)).detail == "the store does not answer in time"
    assert time.monotonic() - began < 20
    assert (await unready(provider)).detail == "the store does not answer in time"
    own_openbao.cont()
    assert (await provider.fetch(SECRET)).version == "1"


async def test_reads_that_hang_leave_the_wait_of_all_others_bounded(own_openbao: OpenBao, tmp_path: Path) -> None:
    own_openbao.put_secret("app", v="x")
    provider = token_provider(own_openbao, tmp_path, own_openbao.root_token, total_seconds=0.4, max_connections=3)
    await provider.fetch(SECRET)
    own_openbao.stop()
    began = time.monotonic()
    found = await asyncio.gather(*(provider.fetch(SECRET) for _ in range(200)), return_exceptions=True)
    assert all(isinstance(error, SourceUnavailableError) for error in found)
    assert time.monotonic() - began < 13, "one after the other on three connections, it would be twice as long"
    own_openbao.cont()


async def test_a_killed_store_is_unavailable_and_a_restarted_one_serves_again(
    durable_openbao: OpenBao, tmp_path: Path
) -> None:
    store = durable_openbao
    store.mount("secret", "kv", {"version": "2"})
    store.put_secret("app", v="x")
    store.policy("reader", 'path "secret/data/*" { capabilities = ["read"] }')
    seen = Seen()
    provider = approle_provider(store, tmp_path, *store.approle("r", ["reader"]), seen=seen)
    await provider.fetch(SECRET)
    await asyncio.to_thread(store.kill)
    assert "can't be reached" in (await unavailable(provider)).detail
    await asyncio.to_thread(store.start)
    assert (await unavailable(provider)).detail == "the store is sealed"
    await asyncio.to_thread(store.unseal)
    seen.advance(5)
    assert (await provider.fetch(SECRET)).version == "1"
    assert seen.count("login") == 1


async def test_a_store_that_forgot_the_token_gets_one_new_login(own_openbao: OpenBao, tmp_path: Path) -> None:
    store = own_openbao
    store.put_secret("app", v="x")
    file = private(tmp_path / "token", store.root_token)
    seen = Seen()
    provider = provider_of(store.address, {"token_file": str(file)}, seen=seen)
    await provider.fetch(SECRET)
    private(file, store.token("root"))
    store.revoke(provider._login._session.client.adapter.token)  # type: ignore[union-attr]  # It has just read.
    store.root_token = file.read_text()
    assert (await provider.fetch(SECRET)).version == "1"


async def test_a_store_that_is_absent_at_the_start_is_asked_at_a_growing_pace_and_heals(
    own_openbao: OpenBao, tmp_path: Path
) -> None:
    own_openbao.put_secret("app", v="x")
    await asyncio.to_thread(own_openbao.kill)
    seen = Seen()
    provider = token_provider(own_openbao, tmp_path, own_openbao.root_token, seen=seen)
    for _ in range(50):
        assert "can't be reached" in (await unavailable(provider)).detail
    assert seen.count("lookup") < 25
    await asyncio.to_thread(own_openbao.start)
    own_openbao.put_secret("app", v="x")
    seen.advance(60)
    assert (await provider.fetch(SECRET)).version == "1"


# TLS.


@pytest.fixture
async def tls_openbao(tmp_path: Path) -> AsyncIterator[tuple[OpenBao, TestAuthority]]:
    authority = TestAuthority(tmp_path / "pki")
    server = authority.server()
    store = await asyncio.to_thread(OpenBao, tmp_path / "bao", tls=Files(server.certificate, server.key))
    store.mount("secret", "kv", {"version": "2"})
    store.put_secret("app", v="x")
    yield store, authority
    await asyncio.to_thread(store.close)


async def test_a_store_with_a_certificate_of_the_named_authority_is_read(
    tls_openbao: tuple[OpenBao, TestAuthority], tmp_path: Path
) -> None:
    store, authority = tls_openbao
    provider = token_provider(store, tmp_path, store.root_token, ca_file=str(authority.ca_path))
    await provider.ping()
    assert (await provider.fetch(SECRET)).version == "1"


async def test_a_certificate_of_another_authority_or_of_none_is_refused(
    tls_openbao: tuple[OpenBao, TestAuthority], tmp_path: Path
) -> None:
    store, _ = tls_openbao
    other = TestAuthority(tmp_path / "other", common_name="somebody else")
    for settings in ({"ca_file": str(other.ca_path)}, {}):
        provider = token_provider(store, tmp_path, store.root_token, **settings)
        assert "certificate is not trusted" in (await unavailable(provider)).detail


@pytest.mark.parametrize("fault", ["name", "expired"])
async def test_a_certificate_for_another_name_or_past_its_end_is_refused(tmp_path: Path, fault: str) -> None:
    authority = TestAuthority(tmp_path / "pki")
    past = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    leaf = (
        authority.leaf(dns=("other.example",), eku="server")
        if fault == "name"
        else authority.leaf(ips=("127.0.0.1",), eku="server", not_after=past)
    )
    store = await asyncio.to_thread(OpenBao, tmp_path / "bao", tls=Files(leaf.certificate, leaf.key))
    provider = token_provider(store, tmp_path, store.root_token, ca_file=str(authority.ca_path))
    assert "certificate is not trusted" in (await unavailable(provider)).detail
    await asyncio.to_thread(store.close)


@pytest.mark.parametrize(("text", "message"), [(None, "No such file"), ("no PEM", "holds no PEM certificate")])
async def test_an_authority_file_that_can_not_be_used_is_named_by_its_setting(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "ca.crt"
    if text is not None:
        file.write_text(text)
    token = private(tmp_path / "token", TOKEN)
    provider = provider_of("https://127.0.0.1:1", {"token_file": str(token)}, ca_file=str(file))
    error = await unavailable(provider)
    assert error.detail == f"providers.vault.ca_file: {error.detail.partition(': ')[2]}"
    assert message in error.detail


# Something else at the store's address.

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LOOKUP = json.dumps({"data": {"ttl": 0, "renewable": False, "num_uses": 0}}).encode()
MOUNT = json.dumps({"data": {"path": "secret/", "type": "kv", "options": {"version": "2"}, "uuid": "u"}}).encode()


def http(body: bytes, *, status: str = "200 OK", kind: str = "application/json", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


class Fake:
    """Answers like a store until it comes to the read, which gets `answer`; `asked` is what it was sent."""

    def __init__(self, answer: bytes, *, abort: bool = False) -> None:
        self.answer = answer
        self.abort = abort
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.port = 0

    def count(self, path: str) -> int:
        return sum(1 for asked, _ in self.asked if asked.startswith(path))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                path = head[0].split()[1]
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                self.asked.append((path, headers))
                if "/auth/token/" in path:
                    writer.write(http(LOOKUP))
                elif "/mounts/" in path:
                    writer.write(http(MOUNT))
                elif self.abort:
                    break
                else:
                    writer.write(self.answer)
                    if b"Content-Length" not in self.answer or b"cut" in self.answer:
                        break
                await writer.drain()
        writer.close()


@asynccontextmanager
async def fake(answer: bytes, *, abort: bool = False) -> AsyncIterator[Fake]:
    it = Fake(answer, abort=abort)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    yield it
    server.close()


def fake_provider(it: Fake, directory: Path, **settings: object) -> VaultProvider:
    file = private(directory / "token", TOKEN)
    return provider_of(f"http://127.0.0.1:{it.port}", {"token_file": str(file)}, **settings)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (http(f"<html>{CANARY}</html>".encode(), kind="text/html"), "not what Vault or OpenBao says"),
        (http(b'{"data": {"data": {"v": "' + CANARY.encode()), "no valid JSON"),
        (http(b"[" * 100_000), "no valid JSON"),
        (http(b'"text"'), "not what Vault or OpenBao says"),
        (http(b"{}"), "not what Vault or OpenBao says"),
        (http(b'{"data": {"data": [1], "metadata": {"version": 1}}}'), "not what Vault or OpenBao says"),
        (http(b'{"data": {"data": {"v": 1}}}'), "not what Vault or OpenBao says"),
        (
            http(b'{"data": {"data": {"v": 1}, "metadata": {"version": 1, "deletion_time": "soon"}}}'),
            "not what Vault or OpenBao says",
        ),
        (http(b"", status="204 No Content"), "not what Vault or OpenBao says"),
        (
            http(b"<h1>Not Found</h1>", status="404 Not Found", kind="text/html"),
            "something before the store answered 404",
        ),
        (http(b"<h1>Bad</h1>", status="502 Bad Gateway", kind="text/html"), "something before the store answered 502"),
        # Said by a node that has just become the leader, about a young KV version 2 engine.
        (
            http(b'{"errors": ["Waiting for the primary. It will resume service."]}', status="400 Bad Request"),
            "being set up in the store",
        ),
        (http(b'{"errors": 5}', status="418 Teapot"), "answered 418, which was not expected"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{cut", "broke off"),
        (b"220 mail.example ESMTP\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n", "no HTTP"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_answer_that_is_not_the_stores_makes_the_secret_unavailable(
    answer: bytes, message: str, tmp_path: Path
) -> None:
    async with fake(answer) as store:
        provider = fake_provider(store, tmp_path)
        assert message in (await unavailable(provider)).detail
        await provider.aclose()


async def test_an_answer_of_five_megabytes_is_cut_off(tmp_path: Path) -> None:
    large = json.dumps({"data": {"data": {"v": "x" * 5_000_000}, "metadata": {"version": 1}}}).encode()
    async with fake(http(large)) as store:
        provider = fake_provider(store, tmp_path)
        with pytest.raises(SecretUnusableError, match="larger than 4194304 bytes"):
            await provider.fetch(SECRET)
        await provider.aclose()


async def test_a_secret_nested_too_deeply_is_unusable(tmp_path: Path) -> None:
    deep = b'{"data":{"metadata":{"version":1},"data":{"v":' + b"[" * 500 + b"]" * 500 + b"}}}"
    async with fake(http(deep)) as store:
        provider = fake_provider(store, tmp_path)
        with pytest.raises(SecretUnusableError, match="nested deeper"):
            await provider.fetch(SECRET)
        await provider.aclose()


async def test_a_redirect_is_not_followed_and_the_token_stays_here(tmp_path: Path) -> None:
    async with fake(http(b"{}")) as thief:
        location = f"Location: http://127.0.0.1:{thief.port}/v1/secret/data/app\r\n"
        async with fake(http(b"", status="307 Temporary Redirect", more=location)) as store:
            provider = fake_provider(store, tmp_path)
            assert "redirects to another address" in (await unavailable(provider)).detail
            await provider.aclose()
        assert thief.asked == []
        assert {headers["X-Vault-Token"] for _, headers in store.asked} == {TOKEN}


@pytest.mark.parametrize(
    ("wanted", "waits", "lowest"),
    [
        ("Fri, 15 Jan 2027 08:00:20 GMT", 20, 1000),
        ("20", 20, 1000),
        # In the past: come at once, but to half as much.
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0, 500),
        ("tomorrow", None, 500),
        ("Sat, 16 Jan 2027 08:00:00 GMT", 60, 1000),
    ],
)
async def test_the_time_that_a_429_names_is_kept_in_both_of_its_forms(
    tmp_path: Path, wanted: str, waits: int | None, lowest: float
) -> None:
    more = f"Date: Fri, 15 Jan 2027 08:00:00 GMT\r\nRetry-After: {wanted}\r\n"
    async with fake(http(b'{"errors": ["slow down"]}', status="429 Too Many Requests", more=more)) as store:
        seen = Seen()
        provider = fake_provider(store, tmp_path, seen=seen)
        error = await unavailable(provider)
        assert error.retry_after is not None
        # Without a time, the first pause is a random part of a second.
        assert error.retry_after == waits if waits is not None else 0 <= error.retry_after <= 1
        assert seen.lowest == pytest.approx(lowest, rel=0.05)
        if waits:
            asked = store.count("/v1/secret/")
            assert (await unavailable(provider)).retry_after == pytest.approx(waits, abs=5)
            seen.advance(waits - 5)
            await unavailable(provider)
            assert store.count("/v1/secret/") == asked
            seen.advance(5)
            await unavailable(provider)
            assert store.count("/v1/secret/") == asked + 1
        await provider.aclose()


@pytest.mark.parametrize("status", ["401 Unauthorized", "407 Proxy Authentication Required", "418 I'm a teapot"])
async def test_a_status_that_no_store_sends_is_an_alarm_and_says_nothing_of_the_secret(
    tmp_path: Path, status: str
) -> None:
    async with fake(http(b"blocked", status=status, kind="text/plain")) as store:
        seen = Seen()
        provider = fake_provider(store, tmp_path, seen=seen)
        assert f"something before the store answered {status[:3]}" in (await unavailable(provider)).detail
        assert (seen.alarms, store.count("/v1/secret/")) == (["unexpected_status"], 1)
        await provider.aclose()


async def test_a_broken_connection_is_tried_once_more_by_a_read(tmp_path: Path) -> None:
    async with fake(b"", abort=True) as store:
        provider = fake_provider(store, tmp_path)
        assert (await unavailable(provider)).detail == "the connection to the store was lost"
        assert store.count("/v1/secret/data/app") == 2
        await provider.aclose()


async def test_a_login_is_never_sent_twice(tmp_path: Path) -> None:
    posted = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal posted
        await reader.readuntil(b"\r\n\r\n")
        posted += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    file = private(tmp_path / "secret_id", CANARY)
    provider = provider_of(
        f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        {"approle": {"role_id": "r", "secret_id_file": str(file)}},
    )
    assert (await unavailable(provider)).detail == "the connection to the store was lost"
    assert posted == 1
    await provider.aclose()
    server.close()


async def test_every_request_says_that_it_is_meant_for_a_store(tmp_path: Path) -> None:
    body = b'{"request_id": "r-1", "data": {"data": {"v": "x"}, "metadata": {"version": 3}}}'
    async with fake(http(body)) as store:
        provider = fake_provider(store, tmp_path, namespace="team1/")
        reading = await provider.fetch(SECRET)
        assert (reading.version, reading.upstream_request) == ("3", "r-1")
        for _, headers in store.asked:
            assert headers["X-Vault-Request"] == "true"
            assert headers["Accept-Encoding"] == "identity"
            assert headers["X-Vault-Namespace"] == "team1"
        await provider.aclose()


async def test_a_name_that_can_not_be_resolved_says_so(tmp_path: Path) -> None:
    file = private(tmp_path / "token", TOKEN)
    provider = provider_of("https://store.invalid:8200", {"token_file": str(file)})
    assert (await unavailable(provider)).detail == "the store's name can't be resolved"


async def test_the_budget_bounds_the_requests_a_second_and_counts_who_waited(tmp_path: Path) -> None:
    body = b'{"data": {"data": {"v": "x"}, "metadata": {"version": 1}}}'
    async with fake(http(body)) as store:
        seen = Seen()
        provider = fake_provider(store, tmp_path, seen=seen, requests_per_second=20)
        began = time.monotonic()
        await asyncio.gather(*(provider.fetch(SECRET) for _ in range(20)))
        spent = time.monotonic() - began
        # Two at once, and 20 more at 19 a second.
        assert len(store.asked) == 22
        assert spent > 0.9
        assert sum(throttled for _, throttled in seen.budgets) >= 19
        assert {rate for rate, _ in seen.budgets} == {20}
        await provider.aclose()


async def test_reads_beyond_the_budget_are_refused_in_time(tmp_path: Path) -> None:
    body = b'{"data": {"data": {"v": "x"}, "metadata": {"version": 1}}}'
    async with fake(http(body)) as store:
        seen = Seen()
        provider = fake_provider(store, tmp_path, seen=seen, requests_per_second=40, total_seconds=0.5)
        found = await asyncio.gather(*(provider.fetch(SECRET) for _ in range(100)), return_exceptions=True)
        refused = [error for error in found if isinstance(error, FetchError)]
        assert 70 < len(refused) < 95
        assert seen.refused == len(refused)
        assert {error.detail for error in refused} == {
            "more reads wait for the store than the broker's budget lets through in time"
        }
        await until(lambda: len(store.asked) < 35)
        await provider.aclose()
