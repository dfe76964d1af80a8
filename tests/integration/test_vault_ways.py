"""How the broker gets to its store: fail-over, trust, pins, redirects, and nothing that mints sent twice."""

import asyncio
import contextlib
import json
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.cli.child import free_port
from broker.errors import SecretMissingError, SourceUnavailableError, UpstreamDeniedError
from broker.providers.base import Grip
from broker.providers.vault.exchange.request import StoreRequest
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.way.trust import spki_pin
from broker.reference import parse
from tests.certificates import Files as Pair
from tests.certificates import TestAuthority
from tests.faults.lagging import Lag
from tests.openbao import Cluster, Files, OpenBao
from tests.vaults import Seen, authority, closing, private, provider_of, secure, server
from tests.waiting import until

__all__ = ["authority", "closing", "secure", "server"]

READER = 'path "secret/data/*" { capabilities = ["read"] }'
SECRET = parse("vault:secret/way#v").source
SPARE = "sha256/" + "A" * 43 + "="


# Several addresses.


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OpenBao, OpenBao]]:
    """Two stores with the same role and different values: the value tells which of them was read."""
    stores = tuple(OpenBao(tmp_path_factory.mktemp(name)) for name in ("one", "two"))
    for store, value in zip(stores, ("first", "second"), strict=True):
        store.policy("reader", READER)
        store.put_secret("way", v=value)
        store.approle("broker", ["reader"])
        store.write("auth/approle/role/broker/role-id", {"role_id": "the-broker"})
        store.write("auth/approle/role/broker/custom-secret-id", {"secret_id": "the-secret-id-of-the-broker"})
    yield stores[0], stores[1]
    for store in stores:
        store.close()


def provider_over(stores: tuple[OpenBao, ...], directory: Path, seen: Seen, **settings: Any) -> VaultProvider:
    file = private(directory / "secret_id", "the-secret-id-of-the-broker")
    auth = {"approle": {"role_id": "the-broker", "secret_id_file": str(file)}}
    named = {"probe_seconds": 0.1, "return_seconds": 0.3, "total_seconds": 1.0, **settings}
    return provider_of([store.address for store in stores], auth, seen=seen, **named)


async def value(provider: VaultProvider) -> str:
    reading = await provider.fetch(SECRET)
    return reading.document.select(("v",)).reveal().decode()


async def maybe(provider: VaultProvider) -> str:
    try:
        return await value(provider)
    except SourceUnavailableError:
        return ""


async def test_the_first_address_is_asked_as_long_as_it_serves(pair: tuple[OpenBao, OpenBao], tmp_path: Path) -> None:
    seen = Seen()
    provider = provider_over(pair, tmp_path, seen)
    assert {await value(provider) for _ in range(20)} == {"first"}
    assert seen.count("health") == 2, "each address was asked once, at the start"


@pytest.mark.parametrize("fault", ["stop", "seal"])
async def test_another_address_serves_while_the_first_fails_and_the_first_again_when_it_is_steady(
    pair: tuple[OpenBao, OpenBao], tmp_path: Path, fault: str
) -> None:
    first, _ = pair
    seen = Seen()
    provider = provider_over(pair, tmp_path, seen)
    assert await value(provider) == "first"
    await asyncio.to_thread(getattr(first, fault))
    found = await asyncio.gather(*(value(provider) for _ in range(50)))
    assert set(found) == {"second"}, "no read failed"
    assert seen.count("login") == 2, "one login for each store"
    await asyncio.to_thread(first.cont if fault == "stop" else first.unseal)
    assert await value(provider) == "second", "it has to be steady first"
    async with asyncio.timeout(20):
        while await value(provider) != "first":  # noqa: ASYNC110  What is waited for is the store.
            await asyncio.sleep(0.05)


async def test_reads_that_wait_behind_a_hanging_address_go_on_at_another(
    pair: tuple[OpenBao, OpenBao], tmp_path: Path
) -> None:
    first, _ = pair
    provider = provider_over(pair, tmp_path, Seen(), max_connections=3)
    assert await value(provider) == "first"
    await asyncio.to_thread(first.stop)
    try:
        assert set(await asyncio.gather(*(value(provider) for _ in range(30)))) == {"second"}
    finally:
        await asyncio.to_thread(first.cont)


async def test_all_addresses_down_is_unavailable_and_costs_few_questions(
    pair: tuple[OpenBao, OpenBao], tmp_path: Path
) -> None:
    seen = Seen()
    provider = provider_over(pair, tmp_path, seen, probe_seconds=60)
    await value(provider)
    for store in pair:
        await asyncio.to_thread(store.seal)
    for _ in range(30):
        with pytest.raises(SourceUnavailableError, match="sealed"):
            await value(provider)
    assert seen.count("health") <= 4
    for store in pair:
        await asyncio.to_thread(store.unseal)
    seen.advance(60)
    assert await value(provider) in {"first", "second"}


async def test_an_address_that_is_dead_at_the_start_is_passed_over(
    pair: tuple[OpenBao, OpenBao], tmp_path: Path
) -> None:
    file = private(tmp_path / "secret_id", "the-secret-id-of-the-broker")
    auth = {"approle": {"role_id": "the-broker", "secret_id_file": str(file)}}
    provider = provider_of(["http://127.0.0.1:1", pair[1].address], auth)
    assert await value(provider) == "second"
    await provider.ping()


async def test_connections_that_are_kept_are_left_when_their_name_has_moved(
    pair: tuple[OpenBao, OpenBao], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    ask, moved = socket.getaddrinfo, threading.Event()

    def answer(host: str, port: int, *rest: Any, **named: Any) -> Any:
        return ask("127.0.0.2" if host == "localhost" and moved.is_set() else host, port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    # The new place of the name, at the port of the old one, which goes on serving.
    place = Lag(second.port)
    await place.start(host="127.0.0.2", port=first.port)
    file = private(tmp_path / "secret_id", "the-secret-id-of-the-broker")
    auth = {"approle": {"role_id": "the-broker", "secret_id_file": str(file)}}
    provider = provider_of(f"http://localhost:{first.port}", auth, dns_seconds=0.1)
    assert await value(provider) == "first"
    moved.set()
    async with asyncio.timeout(20):
        while await maybe(provider) != "second":  # noqa: ASYNC110  What is waited for is the broker.
            await asyncio.sleep(0.05)
    await provider.aclose()
    await place.aclose()


async def test_the_nodes_of_one_cluster_share_the_token_over_a_change_of_leader(tmp_path: Path) -> None:
    leader = await asyncio.to_thread(OpenBao, tmp_path / "one", durable=True)
    standby = await asyncio.to_thread(OpenBao, tmp_path / "two", durable=True, join=leader)
    try:
        leader.mount("secret", "kv", {"version": "2"})
        leader.put_secret("way", v="of the cluster")
        leader.policy("reader", READER)
        role_id, secret_id = leader.approle("broker", ["reader"])
        file = private(tmp_path / "secret_id", secret_id)
        seen = Seen()
        auth = {"approle": {"role_id": role_id, "secret_id_file": str(file)}}
        # The standby is named first: it would serve reads, and the leader is better.
        provider = provider_of([standby.address, leader.address], auth, seen=seen, probe_seconds=0.2)
        assert await value(provider) == "of the cluster"
        assert await provider._transport._addresses.current() == leader.address
        await asyncio.to_thread(leader.request, "PUT", "sys/step-down")
        async with asyncio.timeout(60):
            while await provider._transport._addresses.current() != standby.address:
                with contextlib.suppress(SourceUnavailableError):
                    await provider.ping()
                await asyncio.sleep(0.1)
            # The new leader sets its engines up first.
            while not (found := await maybe(provider)):  # noqa: ASYNC110  What is waited for is the store.
                await asyncio.sleep(0.1)
        assert found == "of the cluster"
        assert seen.count("login") == 1
    finally:
        await asyncio.to_thread(standby.close)
        await asyncio.to_thread(leader.close)


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[tuple[OpenBao, OpenBao]]:
    """A leader, and a standby to which its writes come 0.6 s late."""
    lag = Lag(free_port())
    await lag.start()
    # Patient enough to live with the lag without an election.
    cluster = Cluster(patience=5, port=lag.target, told=lag.port)
    leader = await asyncio.to_thread(OpenBao, tmp_path / "one", durable=True)
    standby = await asyncio.to_thread(OpenBao, tmp_path / "two", durable=True, join=leader, cluster=cluster)
    try:
        await asyncio.to_thread(leader.mount, "secret", "kv", {"version": "2"})
        await asyncio.to_thread(leader.policy, "reader", READER)
        for _ in range(3):
            # Step by step: a leader that suddenly hears nothing steps down.
            lag.delay += 0.2
            await asyncio.sleep(0.2)
        yield leader, standby
    finally:
        await asyncio.to_thread(standby.close)
        await asyncio.to_thread(leader.close)
        await lag.aclose()


async def test_a_secret_that_a_lagging_node_does_not_know_yet_is_not_missing(
    behind: tuple[OpenBao, OpenBao], tmp_path: Path
) -> None:
    leader, standby = behind
    token = await asyncio.to_thread(leader.token, "reader")
    seen = Seen()
    auth = {"token_file": str(private(tmp_path / "token", token))}
    provider = provider_of(standby.address, auth, seen=seen)
    await asyncio.to_thread(leader.put_secret, "way", v="seen")
    # The node has caught up with everything that the broker has seen, so that it answers by itself.
    await until(lambda: standby.request("GET", "secret/data/way").status == 200)
    assert await value(provider) == "seen"
    await asyncio.to_thread(leader.put_secret, "new", v="x")
    assert (await provider.fetch(parse("vault:secret/new#v").source)).version == "1"
    behind_still = await asyncio.to_thread(standby.request, "GET", "secret/data/new")
    assert (behind_still.status, seen.count("renew")) == (404, 1)
    # What is absent in truth costs the leader one write for all that ask at once.
    absent = [provider.fetch(parse(f"vault:secret/no{number}#v").source) for number in range(20)]
    found = await asyncio.gather(*absent, return_exceptions=True)
    assert {type(error) for error in found} == {SecretMissingError}
    assert seen.count("renew") <= 3


async def test_an_absence_that_no_leader_confirms_is_unavailable(
    behind: tuple[OpenBao, OpenBao], tmp_path: Path
) -> None:
    leader, standby = behind
    token = await asyncio.to_thread(leader.token, "reader")
    provider = provider_of(standby.address, {"token_file": str(private(tmp_path / "token", token))})
    await asyncio.to_thread(leader.put_secret, "way", v="seen")
    await until(lambda: standby.request("GET", "secret/data/way").status == 200)
    assert await value(provider) == "seen"
    await asyncio.to_thread(leader.kill)
    with pytest.raises(SourceUnavailableError):
        await provider.fetch(parse("vault:secret/new#v").source)


# What a server that is no store shows of the broker.


class Script:
    """Answers each path as it was told, or with one of a list after the other; `asked` is every request."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | list[bytes]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.address = ""

    def count(self, path: str) -> int:
        return sum(1 for _, asked, _ in self.asked if asked == path)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        method, path, _ = head[0].split()
        self.asked.append((method, path, dict(line.split(": ", 1) for line in head[1:] if line)))
        # What has no answer is hung up on, after the whole request has arrived.
        told = self.answers.get(path, b"")
        writer.write(told if isinstance(told, bytes) else told.pop(0))
        await writer.drain()
        writer.close()


def answer(document: object, *, status: str = "200 OK", more: str = "") -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}"
    return f"{head}Connection: close\r\n\r\n".encode() + body


@asynccontextmanager
async def script(**answers: bytes) -> AsyncIterator[Script]:
    it = Script()
    it.answers = {
        "/v1/sys/health": answer({"sealed": False}),
        "/v1/sys/internal/ui/mounts": answer({"data": {"secret": {}}}),
        "/v1/auth/token/lookup-self": answer({"data": {"ttl": 0, "renewable": False}}),
        "/v1/sys/internal/ui/mounts/secret/way": answer(
            {"data": {"path": "secret/", "type": "kv", "options": {"version": "2"}, "uuid": "u"}}
        ),
        "/v1/secret/data/way": answer({"data": {"data": {"v": "scripted"}, "metadata": {"version": 1}}}),
        **{f"/v1/{path}": text for path, text in answers.items()},
    }
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield it
    server.close()


def scripted_provider(directory: Path, *addresses: str, **settings: Any) -> VaultProvider:
    file = private(directory / "token", "s.canary")
    return provider_of(list(addresses), {"token_file": str(file)}, **settings)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
async def test_a_request_that_may_mint_is_sent_once_to_a_server_that_hangs_up(tmp_path: Path, method: str) -> None:
    async with script() as one, script() as two:
        provider = scripted_provider(tmp_path, one.address, two.address)
        path = "/v1/database/creds/app"
        with pytest.raises(SourceUnavailableError, match="lost"):
            await provider._transport.send(StoreRequest(method=method, path=path, headers={}))
        assert one.count(path) + two.count(path) == 1
        await provider.aclose()


@pytest.mark.parametrize("status", ["503 Service Unavailable", "501 Not Implemented"])
async def test_a_request_that_may_mint_is_not_sent_elsewhere_on_the_word_of_a_proxy(
    tmp_path: Path, status: str
) -> None:
    async with script() as one, script() as two:
        path = "/v1/database/creds/app"
        page = b"upstream connect error or disconnect/reset before headers"
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(page)}\r\n"
        one.answers[path] = f"{head}Connection: close\r\n\r\n".encode() + page
        two.answers[path] = answer({"data": {}})
        provider = scripted_provider(tmp_path, one.address, two.address)
        response = await provider._transport.send(StoreRequest(method="GET", path=path, headers={}))
        assert (response.status, one.count(path), two.count(path)) == (int(status[:3]), 1, 0)
        await provider.aclose()
        # What the store itself says it has not done may be asked of another address.
        one.answers[path] = answer({"errors": ["Vault is sealed"]}, status=status)
        provider = scripted_provider(tmp_path, one.address, two.address)
        response = await provider._transport.send(StoreRequest(method="GET", path=path, headers={}))
        assert (response.status, one.count(path), two.count(path)) == (200, 2, 1)
        await provider.aclose()


@pytest.mark.parametrize(("times", "given"), [(1, True), (3, True), (4, False)])
async def test_a_node_that_is_behind_is_asked_again_in_a_moment(tmp_path: Path, times: int, given: bool) -> None:
    path = "/v1/secret/data/way"
    async with script() as one:
        behind = answer({"errors": ["required index state not present"]}, status="412 Precondition Failed")
        good = one.answers[path]
        assert isinstance(good, bytes)
        one.answers[path] = [*[behind] * times, good]
        provider = scripted_provider(tmp_path, one.address)
        if given:
            assert await value(provider) == "scripted"
        else:
            with pytest.raises(SourceUnavailableError, match="has not come yet to what another has told"):
                await value(provider)
        assert one.count(path) == min(times + 1, 4)
        await provider.aclose()


async def test_logins_whose_tokens_are_refused_are_repeated_at_a_growing_pace(tmp_path: Path) -> None:
    refused = answer({"errors": ["permission denied"]}, status="403 Forbidden")
    given = answer({"auth": {"client_token": "s.new", "lease_duration": 3600, "renewable": False}})
    paths = [f"s{number}/way" for number in range(50)]
    async with script() as one:
        one.answers = {"/v1/auth/approle/login": given, "/v1/auth/token/lookup-self": refused}
        one.answers |= {f"/v1/sys/internal/ui/mounts/{path}": refused for path in paths}
        one.answers |= {f"/v1/{path}": refused for path in paths}
        seen = Seen()
        file = private(tmp_path / "secret_id", "x")
        auth = {"approle": {"role_id": "r", "secret_id_file": str(file)}}
        provider = provider_of(one.address, auth, seen=seen)
        for path in paths:
            with pytest.raises(SourceUnavailableError, match="the store refuses the broker's new token too"):
                await provider.fetch(parse(f"vault:{path}#v").source)
            seen.advance(1.0)
        assert 3 <= one.count("/v1/auth/approle/login") <= 25
        await provider.aclose()


PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<html></html>"


async def test_an_address_where_a_page_answers_for_the_store_is_left_for_another(tmp_path: Path) -> None:
    async with script() as one, script() as two:
        good = one.answers
        provider = scripted_provider(tmp_path, one.address, two.address, probe_seconds=0.1, return_seconds=0.2)
        assert await value(provider) == "scripted"
        one.answers = dict.fromkeys(good, PAGE)
        assert [await value(provider) for _ in range(3)] == ["scripted"] * 3
        assert one.count("/v1/secret/data/way") == 2, "it is asked no more"
        await provider.ping()
        asked = one.count("/v1/sys/health")
        await until(lambda: one.count("/v1/sys/health") > asked + 3)
        assert await value(provider) == "scripted"
        assert one.count("/v1/secret/data/way") == 2, "a page is no sign of health"
        one.answers = good
        await until(lambda: provider._transport._addresses._current == one.address)
        await provider.aclose()


GATEWAY = answer({"message": "ok"})


@pytest.mark.parametrize("foreign", [PAGE, GATEWAY], ids=["a page", "a gateway's own JSON"])
@pytest.mark.parametrize(
    ("path", "question"),
    [
        ("sys/leases/revoke", lambda provider: provider.revoke(Grip(handle="database/creds/app/x", parent=""))),
        ("auth/token/revoke-accessor", lambda provider: provider.revoke(Grip(handle="", parent="accessor"))),
        ("pki/revoke", lambda provider: provider.revoke(Grip(handle="pki?serial_number=01:02", parent=""))),
        ("secret/detailed-metadata/?list=true&limit=1000", lambda provider: provider.revisions([SECRET])),
        ("auth/token/lookup-self", lambda provider: provider._login.prove(recent_proof_will_do=False)),
        ("auth/token/renew-self", lambda provider: provider._login.write()),
    ],
    ids=["lease", "parent", "certificate", "listing", "proof", "write"],
)
async def test_what_answers_in_the_stores_place_revokes_nothing_proves_nothing_and_knows_of_no_absence(
    tmp_path: Path, path: str, question: Callable[[VaultProvider], Awaitable[object]], foreign: bytes
) -> None:
    async with script() as one:
        provider = scripted_provider(tmp_path, one.address)
        assert await value(provider) == "scripted"
        asked = one.count(f"/v1/{path}")
        one.answers[f"/v1/{path}"] = foreign
        with pytest.raises(SourceUnavailableError, match="not what Vault or OpenBao says"):
            await question(provider)
        assert one.count(f"/v1/{path}") == asked + 1
        await provider.aclose()


def foreign_error(status: str) -> bytes:
    page = b"<html>blocked</html>"
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(page)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + page


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "404 Not Found", "405 Method Not Allowed"])
async def test_a_refusal_of_something_before_the_store_says_nothing_of_secret_token_credential_or_lease(
    tmp_path: Path, status: str
) -> None:
    login, lookup = "/v1/auth/approle/login", "/v1/sys/leases/lookup"
    async with script() as one:
        one.answers[login] = answer({"auth": {"client_token": "s.new", "lease_duration": 3600, "renewable": False}})
        good = dict(one.answers)
        one.answers |= {"/v1/secret/data/way": foreign_error(status), lookup: foreign_error(status)}
        seen = Seen()
        file = private(tmp_path / "secret_id", "x")
        auth = {"approle": {"role_id": "r", "secret_id_file": str(file)}}
        provider = provider_of(one.address, auth, seen=seen)
        for _ in range(2):
            with pytest.raises(SourceUnavailableError, match=f"something before the store answered {status[:3]}"):
                await value(provider)
        with pytest.raises(SourceUnavailableError, match="something before the store"):
            await provider.look_up(Grip(handle="database/creds/app/x", parent=""))
        assert one.count(login) == 1, "the token is not taken for dead"
        assert set(seen.alarms) == {"unexpected_status"}
        await provider.aclose()

        one.answers = dict.fromkeys(good, foreign_error(status))
        provider = provider_of(one.address, auth, seen=seen)
        for _ in range(5):
            with pytest.raises(SourceUnavailableError, match="something before the store"):
                await value(provider)
            seen.advance(20)
        one.answers = good
        assert await value(provider) == "scripted", "the credential is not taken for refused"
        await provider.aclose()


async def test_a_node_that_can_not_write_its_audit_log_is_left_for_another(tmp_path: Path) -> None:
    async with script() as one, script() as two:
        provider = scripted_provider(tmp_path, one.address, two.address, probe_seconds=0.05, return_seconds=0.1)
        assert await value(provider) == "scripted"
        # Its health is as good as ever.
        stopped = answer({"errors": ["internal error"]}, status="500 Internal Server Error")
        one.answers = {path: text if path == "/v1/sys/health" else stopped for path, text in one.answers.items()}
        assert [await value(provider) for _ in range(3)] == ["scripted"] * 3
        await until(lambda: one.count("/v1/sys/internal/ui/mounts") > 2)
        assert await value(provider) == "scripted"
        assert one.count("/v1/secret/data/way") == 2, "health alone is no reason to go back"
        await provider.aclose()


async def test_a_login_that_a_page_answers_goes_to_another_address_the_next_time(tmp_path: Path) -> None:
    login = "/v1/auth/approle/login"
    async with script() as one, script() as two:
        one.answers[login] = PAGE
        two.answers[login] = answer({"auth": {"client_token": "s.new", "lease_duration": 3600, "renewable": False}})
        seen = Seen()
        file = private(tmp_path / "secret_id", "x")
        auth = {"approle": {"role_id": "r", "secret_id_file": str(file)}}
        provider = provider_of([one.address, two.address], auth, seen=seen)
        with pytest.raises(SourceUnavailableError, match="not what Vault or OpenBao says"):
            await value(provider)
        seen.advance(20)
        assert await value(provider) == "scripted"
        assert (one.count(login), two.count(login)) == (1, 1)
        await provider.aclose()


async def test_a_read_that_was_lost_is_asked_once_more_at_another_address(tmp_path: Path) -> None:
    async with script() as one, script() as two:
        del one.answers["/v1/secret/data/way"]
        provider = scripted_provider(tmp_path, one.address, two.address)
        assert await value(provider) == "scripted"
        assert (one.count("/v1/secret/data/way"), two.count("/v1/secret/data/way")) == (1, 1)
        await provider.aclose()


async def test_a_redirect_to_a_listed_address_is_taken_once(tmp_path: Path) -> None:
    async with script() as one, script() as two:
        for here, there in ((one, two), (two, one)):
            more = f"Location: {there.address}/v1/anything/else\r\n"
            here.answers["/v1/secret/data/loop"] = answer({}, status="307 Temporary Redirect", more=more)
        one.answers["/v1/secret/data/way"] = answer(
            {}, status="307 Temporary Redirect", more=f"Location: {two.address}/v1/sys/seal\r\n"
        )
        provider = scripted_provider(tmp_path, one.address, two.address)
        assert await value(provider) == "scripted"
        assert two.count("/v1/sys/seal") == 0, "the path of a redirect is never taken"
        with pytest.raises(SourceUnavailableError, match="redirects to another address"):
            await provider.fetch(parse("vault:secret/loop#v").source)
        assert one.count("/v1/secret/data/loop") + two.count("/v1/secret/data/loop") == 2
        await provider.aclose()


@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/v1/x", "//127.0.0.1:{port}", "/v1/x", "http://[", ""])
async def test_a_redirect_elsewhere_is_not_taken_and_no_token_goes_there(tmp_path: Path, location: str) -> None:
    async with script() as one, script() as two, script() as thief:
        where = location.format(port=thief.address.rpartition(":")[2])
        one.answers["/v1/secret/data/way"] = answer({}, status="307 Temporary Redirect", more=f"Location: {where}\r\n")
        provider = scripted_provider(tmp_path, one.address, two.address)
        with pytest.raises(SourceUnavailableError, match="redirects to another address") as caught:
            await value(provider)
        assert "127.0.0.1" not in caught.value.detail
        assert thief.asked == []
        await provider.aclose()


async def test_a_class_of_requests_has_its_own_time_outs(tmp_path: Path) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    seen = Seen()
    provider = scripted_provider(
        tmp_path,
        address,
        total_seconds=60,
        login_timeouts={"read_seconds": 0.1},
        health_timeouts={"total_seconds": 0.1},
    )
    for ask in (provider.ping, lambda: provider.fetch(SECRET)):
        async with asyncio.timeout(20):
            with pytest.raises(SourceUnavailableError, match="not answer in time"):
                await ask()
    assert seen.requests == []
    await provider.aclose()
    server.close()


# Denials.


async def test_denials_in_the_words_for_a_dead_token_cost_no_login_and_few_look_ups(tmp_path: Path) -> None:
    async with script(
        **{"secret/data/way": answer({"errors": ["permission denied"]}, status="403 Forbidden")}
    ) as store:
        seen = Seen()
        provider = scripted_provider(tmp_path, store.address, seen=seen)
        for _ in range(20):
            with pytest.raises(UpstreamDeniedError):
                await value(provider)
        assert store.count("/v1/secret/data/way") >= 20
        assert store.count("/v1/auth/token/lookup-self") == 2, "the login's, and one that unmasked the words"
        await provider.aclose()


# Credentials.

CANARY = "canary-4711-geheim"


@pytest.mark.parametrize(
    "fault",
    [
        answer({"errors": [f"no {CANARY} here"]}, status="400 Bad Request"),
        answer({"errors": [f"1 error occurred: {CANARY}"]}, status="500 Internal Server Error"),
        answer({"auth": CANARY}),
        b"",
    ],
    ids=["refused", "broken", "nonsense", "lost"],
)
async def test_no_credential_of_any_login_is_in_an_error_a_log_or_a_repr(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: bytes
) -> None:
    caplog.set_level("DEBUG")
    file = str(private(tmp_path / "credential", CANARY))
    ways: dict[str, dict[str, Any]] = {
        "approle": {"role_id": "r", "secret_id_file": file},
        "jwt": {"role": "r", "token_file": file},
        "kubernetes": {"role": "r", "token_file": file},
        "aws": {
            "role": "r",
            "access_key_id_file": file,
            "secret_access_key_file": file,
            "session_token_file": file,
        },
        "unsafe_userpass": {"username": "r", "password_file": file},
    }
    wrapped = {"approle": {"role_id": "r", "wrapped_secret_id_file": file, "role_name": "r"}}
    paths = ("approle/login", "jwt/login", "kubernetes/login", "aws/login", "userpass/login/r", "token/lookup-self")
    answers = {**{f"auth/{path}": fault for path in paths}, "sys/wrapping/lookup": fault}
    async with script(**answers) as store:
        for auth in (*({name: way} for name, way in ways.items()), wrapped, {"token_file": file}):
            provider = provider_of(store.address, auth)
            with pytest.raises(SourceUnavailableError) as caught:
                await provider.fetch(SECRET)
            shown = f"{caught.value!r}{vars(caught.value)}{vars(provider)}{vars(provider._login)}"
            assert CANARY not in shown
            await provider.aclose()
        assert {path for _, path, _ in store.asked} >= {f"/v1/{path}" for path in answers}
    assert CANARY not in caplog.text


# Trust.


def secure_provider(
    store: OpenBao, directory: Path, ca_file: Path, seen: Seen | None = None, **settings: Any
) -> VaultProvider:
    file = private(directory / "token", store.root_token)
    return provider_of(store.address, {"token_file": str(file)}, seen=seen, ca_file=str(ca_file), **settings)


async def test_two_authorities_in_one_bundle_are_both_believed(
    secure: OpenBao, authority: TestAuthority, tmp_path: Path
) -> None:
    other = TestAuthority(tmp_path / "other", common_name="the next one")
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(other.ca_path.read_bytes() + authority.ca_path.read_bytes())
    assert await value(secure_provider(secure, tmp_path, bundle)) == "secure"


async def test_a_bundle_that_changes_is_believed_from_the_next_connection_on(
    secure: OpenBao, authority: TestAuthority, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle.crt"
    shutil.copy(TestAuthority(tmp_path / "other", common_name="another").ca_path, bundle)
    seen = Seen()
    provider = secure_provider(secure, tmp_path, bundle, seen)
    with pytest.raises(SourceUnavailableError, match="not trusted"):
        await value(provider)
    assert "certificate" in seen.alarms
    shutil.copy(authority.ca_path, bundle)
    seen.advance(60)
    assert await value(provider) == "secure"
    bundle.write_text("half a certifi")
    seen.advance(60)
    assert await value(provider) == "secure", "a broken bundle keeps the old one in force"
    assert "files" in seen.alarms
    shutil.copy(TestAuthority(tmp_path / "third", common_name="a third").ca_path, bundle)
    seen.advance(60)
    with pytest.raises(SourceUnavailableError, match="not trusted"):
        await value(provider)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("key", "holds a private key"),
        ("damaged", "holds no PEM certificate, or a damaged one"),
        ("", "holds no PEM certificate"),
        ("gone", "No such file"),
    ],
)
async def test_a_bundle_that_can_not_be_used_is_named_by_its_setting(
    authority: TestAuthority, server: Pair, tmp_path: Path, content: str, message: str
) -> None:
    bundle = tmp_path / "bundle.crt"
    good = authority.ca_path.read_text()
    texts = {
        "key": good + server.key.read_text(),
        "damaged": good + good.replace("MII", "!!!", 1),
        "": "",
    }
    if content in texts:
        bundle.write_text(texts[content])
    token = private(tmp_path / "token", "s.canary")
    provider = provider_of("https://127.0.0.1:1", {"token_file": str(token)}, ca_file=str(bundle))
    with pytest.raises(SourceUnavailableError, match=message) as caught:
        await value(provider)
    assert caught.value.detail.startswith("providers.vault.ca_file: ")
    assert str(tmp_path) not in caught.value.detail


async def test_a_pinned_key_is_taken(secure: OpenBao, authority: TestAuthority, server: Pair, tmp_path: Path) -> None:
    pins = [SPARE, spki_pin(server.der)]
    assert await value(secure_provider(secure, tmp_path, authority.ca_path, pins=pins)) == "secure"


async def test_a_key_that_is_not_pinned_is_refused_before_the_token_leaves(
    secure: OpenBao, authority: TestAuthority, tmp_path: Path
) -> None:
    pins = [SPARE, spki_pin(authority.server().der)]
    seen = Seen()
    provider = secure_provider(secure, tmp_path, authority.ca_path, seen, pins=pins)
    with pytest.raises(SourceUnavailableError, match=r"none of providers\.vault\.pins"):
        await value(provider)
    assert seen.alarms == ["pin"]


async def test_a_pin_replaces_no_verification(secure: OpenBao, server: Pair, tmp_path: Path) -> None:
    stranger = TestAuthority(tmp_path / "other", common_name="somebody else")
    provider = secure_provider(secure, tmp_path, stranger.ca_path, pins=[SPARE, spki_pin(server.der)])
    with pytest.raises(SourceUnavailableError, match="not trusted"):
        await value(provider)


async def test_a_client_certificate_is_shown_on_every_connection(
    authority: TestAuthority, server: Pair, tmp_path: Path
) -> None:
    store = await asyncio.to_thread(
        OpenBao, tmp_path / "bao", tls=Files(server.certificate, server.key), client_ca=authority.ca_path
    )
    try:
        store.mount("secret", "kv", {"version": "2"})
        store.put_secret("way", v="mutual")
        with pytest.raises(SourceUnavailableError):
            await value(secure_provider(store, tmp_path, authority.ca_path))
        leaf = authority.leaf(eku="client", common_name="broker")
        shown = {"certificate_file": str(leaf.certificate), "key_file": str(leaf.key)}
        provider = secure_provider(store, tmp_path, authority.ca_path, client_certificate=shown)
        await provider.ping()
        assert await value(provider) == "mutual"
    finally:
        await asyncio.to_thread(store.close)
