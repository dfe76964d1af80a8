"""The agents' listener over real TLS: who is admitted, and what is said of everyone else."""

import asyncio
import datetime as dt
import errno
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from broker.errors import IdentityRefusedError, SettingsInvalidError
from broker.identity import VerifiedChain
from broker.web.listening.binding import bind
from broker.web.listening.http_connection import HttpConnections
from broker.web.listening.tls_listener import HandshakeResult, TlsListener
from broker.web.tls.certificates import TlsFiles, build_context, read_pair, read_trust
from broker.web.tls.handshake import HandshakeOutcome, handshake_failure_reason
from broker.web.tls.peers import Peers
from tests.certificates import Files, TestAuthority, client_context
from tests.dialing import REQUEST, ask, dial
from tests.waiting import until

SHIPPER = "spiffe://test.example/logflux/shipper"
OTHER = "spiffe://test.example/other"
T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
DAY = dt.timedelta(days=1)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    """Run a coroutine on each of the two event loops."""

    def runner(coroutine: Coroutine[Any, Any, T]) -> T:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as loop:
            return loop.run(asyncio.wait_for(coroutine, 30))

    return runner


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "pki")


@pytest.fixture
def good(authority: TestAuthority) -> ssl.SSLContext:
    return client_context(authority.ca_path, authority.agent())


class EveryChain:
    """Trusts what the handshake has verified."""

    def require_trusted(self, chain: VerifiedChain) -> None:
        assert chain.certificates


class Served:
    """A listener, and what it has reported."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.results: list[HandshakeResult] = []
        self.now = time.time()
        self.peers = Peers(trust=EveryChain())
        self.listener: TlsListener
        self.runner: web.AppRunner
        self.port = 0

    def report(self, result: HandshakeResult) -> None:
        self.results.append(result)

    @property
    def outcomes(self) -> list[str]:
        return [result.outcome for result in self.results]

    async def reported(self, count: int = 1) -> list[str]:
        await until(lambda: len(self.results) >= count)
        return self.outcomes

    async def settled(self, connections: int) -> None:
        await until(lambda: self.listener.connections == connections)

    async def answer(self, request: web.Request) -> web.Response:
        try:
            return web.Response(text=self.peers.peer_of(request, now=self.now).name)
        except IdentityRefusedError as error:
            return web.Response(text=error.reason.value, status=403)


@asynccontextmanager
async def serving(
    authority: TestAuthority,
    *,
    minimum: str = "1.3",
    sock: socket.socket | None = None,
    report: Callable[..., Any] | None = None,
    http: bool = False,
    **rest: Any,
) -> AsyncIterator[Served]:
    served = Served(await asyncio.to_thread(context_of, authority, minimum=minimum))
    application = web.Application()
    application.router.add_get("/", served.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    served.runner = runner
    sock = sock or bind("127.0.0.1", 0)
    served.port = sock.getsockname()[1]
    served.listener = TlsListener(
        protocol=HttpConnections(runner=runner, idle_seconds=30) if http else runner.server,
        sock=sock,
        context=lambda: served.context,
        on_handshake=report or served.report,
        name_of=served.peers.name_at,
        **rest,
    )
    await served.listener.start()
    try:
        yield served
    finally:
        await served.listener.stop()
        await runner.cleanup()


def context_of(authority: TestAuthority, *, minimum: Any = "1.3", client_ca: Path | None = None) -> ssl.SSLContext:
    files = authority.server()
    return server_context(
        certificate=files.certificate, key=files.key, client_ca=client_ca or authority.ca_path, minimum=minimum
    )


def server_context(*, minimum: Any = "1.3", **paths: Path) -> ssl.SSLContext:
    files, now = TlsFiles(**paths), time.time()
    return build_context(pair=read_pair(files, now=now), trust=read_trust(files, now=now), minimum=minimum)


def visit(port: int, context: ssl.SSLContext) -> str:
    with dial(port, context) as connection:
        return ask(connection)


def speak(plain: socket.socket, context: ssl.SSLContext) -> str:
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        return ask(connection)


def refused(port: int, context: ssl.SSLContext) -> str:
    """Return the name of the error that the client sees; in TLS 1.3 it comes with the first read."""
    try:
        answer = visit(port, context)
    except ssl.SSLError as error:
        return error.reason or "tls"
    except ConnectionError:
        return "reset"
    assert not answer, "the client was answered"
    return "closed"


def test_a_good_certificate_is_admitted_and_named(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext
) -> None:
    async def story() -> None:
        async with serving(authority) as served:
            assert await asyncio.to_thread(visit, served.port, good) == SHIPPER
            assert served.results == [HandshakeResult(outcome="ok", address="127.0.0.1")]

    run(story())


def bad_certificate(authority: TestAuthority, case: str) -> Files | None:
    now = dt.datetime.now(dt.UTC)
    match case:
        case "no_certificate":
            return None
        case "unknown_ca":
            return TestAuthority(authority.directory, common_name="other authority").agent()
        case "self_signed":
            oddity: dict[str, Any] = {"self_signed": True}
        case "expired":
            oddity = {"not_before": now - 3 * DAY, "not_after": now - DAY}
        case "not_yet_valid":
            oddity = {"not_before": now + DAY, "not_after": now + 3 * DAY}
        case "wrong_purpose":
            oddity = {"eku": "server"}
        case _:
            # An empty subject with a SAN that is not critical; only the strict flag finds it.
            oddity = {"common_name": None, "critical_san": False}
    return authority.leaf(uris=(SHIPPER,), **oddity)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize(
    "case",
    [
        "no_certificate",
        "unknown_ca",
        "self_signed",
        "expired",
        "not_yet_valid",
        "wrong_purpose",
        "invalid_certificate",
    ],
)
def test_a_bad_certificate_fails_the_handshake_and_is_reported_by_name(
    run: Run[Any], authority: TestAuthority, case: str, version: str
) -> None:
    async def story() -> None:
        client = client_context(authority.ca_path, bad_certificate(authority, case))
        client.maximum_version = ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3
        async with serving(authority, minimum="1.2") as served:
            await asyncio.to_thread(refused, served.port, client)
            assert await served.reported() == [case]
            assert served.results[0].address == "127.0.0.1"
            await served.settled(0)

    run(story())


def test_a_client_that_refuses_the_broker_is_reported(run: Run[Any], authority: TestAuthority, tmp_path: Path) -> None:
    async def story() -> None:
        other = TestAuthority(tmp_path / "other", common_name="other authority")
        async with serving(authority) as served:
            await asyncio.to_thread(refused, served.port, client_context(other.ca_path, authority.agent()))
            assert await served.reported() == ["refused_by_peer"]

    run(story())


@pytest.mark.parametrize(
    ("uris", "reason"), [((SHIPPER, SHIPPER), "two_uri_sans"), (("http://x/a",), "uri_not_spiffe")]
)
def test_a_certificate_that_names_nobody_passes_the_handshake_and_no_request(
    run: Run[Any], authority: TestAuthority, uris: tuple[str, ...], reason: str
) -> None:
    async def story() -> None:
        client = client_context(authority.ca_path, authority.leaf(uris=uris))
        async with serving(authority) as served:
            assert await asyncio.to_thread(visit, served.port, client) == reason
            assert served.outcomes == ["ok"]

    run(story())


def test_a_certificate_that_expires_on_an_open_connection_is_refused_at_the_next_request(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext
) -> None:
    async def story() -> None:
        async with serving(authority) as served:
            connection = await asyncio.to_thread(dial, served.port, good)
            with connection:
                assert await asyncio.to_thread(ask, connection) == SHIPPER
                served.now += 2 * DAY.total_seconds()
                assert await asyncio.to_thread(ask, connection) == "outside_validity"

    run(story())


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        (REQUEST, "plain_http"),
        (b"CONNECT a:443 HTTP/1.1\r\n\r\n", "plain_http"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not_tls"),
        (b"\x00" * 64, "not_tls"),
        (b"", "reset"),
    ],
)
def test_what_is_no_tls_is_reported_by_name(run: Run[Any], authority: TestAuthority, sent: bytes, outcome: str) -> None:
    def client(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(4096):
                pass

    async def story() -> None:
        async with serving(authority) as served:
            with suppress(ConnectionError):
                await asyncio.to_thread(client, served.port)
            assert await served.reported() == [outcome]
            await served.settled(0)

    run(story())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize("minimum", ["1.2", "1.3"])
def test_tls_1_1_is_refused_and_reported(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext, minimum: str
) -> None:
    # The client's own library would not even try without these.
    good.set_ciphers("ALL:@SECLEVEL=0")
    good.minimum_version = ssl.TLSVersion.TLSv1_1
    good.maximum_version = ssl.TLSVersion.TLSv1_1

    async def story() -> None:
        async with serving(authority, minimum=minimum) as served:
            await asyncio.to_thread(refused, served.port, good)
            assert await served.reported() == ["protocol_version"]

    run(story())


def test_tls_1_2_is_refused_by_default(run: Run[Any], authority: TestAuthority, good: ssl.SSLContext) -> None:
    good.maximum_version = ssl.TLSVersion.TLSv1_2

    async def story() -> None:
        async with serving(authority) as served:
            await asyncio.to_thread(refused, served.port, good)
            assert await served.reported() == ["protocol_version"]

    run(story())


def test_tls_1_2_has_ecdhe_with_aead_only(authority: TestAuthority) -> None:
    suites = [suite for suite in context_of(authority, minimum="1.2").get_ciphers() if suite["protocol"] == "TLSv1.2"]
    assert suites
    assert all(suite["aead"] and suite["kea"] == "kx-ecdhe" for suite in suites)


@pytest.mark.parametrize("suites", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "DHE-RSA-AES256-GCM-SHA384"])
def test_any_other_suite_of_tls_1_2_fails_by_name(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext, suites: str
) -> None:
    good.maximum_version = ssl.TLSVersion.TLSv1_2
    good.set_ciphers(suites)

    async def story() -> None:
        async with serving(authority, minimum="1.2") as served:
            await asyncio.to_thread(refused, served.port, good)
            assert await served.reported() == ["no_shared_cipher"]

    run(story())


def test_tls_1_3_gives_no_session_to_resume(run: Run[Any], authority: TestAuthority, good: ssl.SSLContext) -> None:
    def client(port: int) -> bool:
        with dial(port, good) as first:
            ask(first)
            return first.session.has_ticket

    async def story() -> None:
        async with serving(authority, minimum="1.2") as served:
            assert await asyncio.to_thread(client, served.port) is False
            assert served.outcomes == ["ok"]

    run(story())


def test_a_session_of_tls_1_2_has_no_ticket_and_is_refused_when_resumed_by_its_id(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext
) -> None:
    good.maximum_version = ssl.TLSVersion.TLSv1_2

    async def story() -> None:
        async with serving(authority, minimum="1.2") as served:
            # The first connection stays open, so OpenSSL remembers its session.
            first = await asyncio.to_thread(dial, served.port, good)
            with first:
                assert await asyncio.to_thread(ask, first) == SHIPPER
                assert not first.session.has_ticket
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await asyncio.to_thread(resume, served.port, good, first.session)
                assert await served.reported(2) == ["ok", "resumed"]
                # The refusal has made OpenSSL forget it: the next try is a full handshake.
                assert await asyncio.to_thread(resume, served.port, good, first.session) == (SHIPPER, False)
                assert await served.reported(3) == ["ok", "resumed", "ok"]
            await served.settled(0)

    run(story())


def resume(port: int, context: ssl.SSLContext, session: ssl.SSLSession) -> tuple[str, bool]:
    """Return the answer over a connection that offers `session`, and whether that was taken."""
    with dial(port, context, session=session) as connection:
        answer = ask(connection)
        if not answer:
            raise ConnectionResetError
        return answer, bool(connection.session_reused)


def test_alpn_is_http_1_1(run: Run[Any], authority: TestAuthority, good: ssl.SSLContext) -> None:
    good.set_alpn_protocols(["h2", "http/1.1"])

    def client(port: int) -> str | None:
        with dial(port, good) as connection:
            return connection.selected_alpn_protocol()

    async def story() -> None:
        async with serving(authority) as served:
            assert await asyncio.to_thread(client, served.port) == "http/1.1"

    run(story())


def test_a_handshake_that_takes_too_long_is_ended_and_reported(run: Run[Any], authority: TestAuthority) -> None:
    async def story() -> None:
        async with serving(authority, handshake_seconds=0.2) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            assert await served.reported() == ["timeout"]
            writer.close()
            await served.settled(0)

    run(story())


def test_a_slow_handshake_keeps_nobody_else_waiting(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext
) -> None:
    async def story() -> None:
        async with serving(authority, handshake_seconds=20) as served:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            assert await asyncio.to_thread(visit, served.port, good) == SHIPPER
            writer.close()

    run(story())


def test_many_silent_clients_hold_nobody_up(run: Run[Any], authority: TestAuthority, good: ssl.SSLContext) -> None:
    async def story() -> None:
        async with serving(authority, handshake_seconds=60) as served:
            writers = [(await asyncio.open_connection("127.0.0.1", served.port))[1] for _ in range(200)]
            assert await asyncio.to_thread(visit, served.port, good) == SHIPPER
            for writer in writers:
                writer.close()

    run(story())


def test_who_waits_for_a_handshake_at_the_stop_may_still_ask(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.web.listening.accepting._AT_ONCE", 1)
    monkeypatch.setattr("broker.web.listening.accepting._STUCK_SECONDS", 60)

    async def story() -> None:
        async with serving(authority, handshake_seconds=60) as served:
            _, silent = await asyncio.open_connection("127.0.0.1", served.port)
            await served.settled(1)
            with socket.create_connection(("127.0.0.1", served.port), timeout=20) as waiting:
                asking = asyncio.create_task(asyncio.to_thread(speak, waiting, good))
                await asyncio.sleep(0)
                assert served.listener.connections == 1
                await served.listener.stop()
                assert await asking == SHIPPER
            silent.close()

    run(story())


def test_connections_are_bounded_and_the_next_one_waits_for_a_place(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext
) -> None:
    async def story() -> None:
        async with serving(authority, max_connections=2) as served:
            first, second = [await asyncio.to_thread(dial, served.port, good) for _ in range(2)]
            third = asyncio.create_task(asyncio.to_thread(visit, served.port, good))
            # Both are served while the third waits, and its handshake does not begin.
            assert await asyncio.to_thread(ask, first) == SHIPPER
            assert await asyncio.to_thread(ask, second) == SHIPPER
            assert (served.listener.connections, served.outcomes, third.done()) == (2, ["ok", "ok"], False)
            first.close()
            assert await asyncio.wait_for(third, 10) == SHIPPER
            assert await served.reported(3) == ["ok"] * 3
            second.close()
            await served.settled(0)

    run(story())


def test_one_identity_can_not_take_every_place(run: Run[Any], authority: TestAuthority, good: ssl.SSLContext) -> None:
    async def story() -> None:
        other = client_context(authority.ca_path, await asyncio.to_thread(authority.agent, spiffe=OTHER))
        async with serving(authority, max_connections=8, http=True) as served:
            with ExitStack() as stack:
                for _ in range(7):
                    held = stack.enter_context(await asyncio.to_thread(dial, served.port, good))
                assert await served.reported(7) == ["ok"] * 7
                assert await asyncio.to_thread(refused, served.port, good) in {"closed", "reset", "tls"}
                assert (await served.reported(8))[7] == "too_many_connections"
                assert await asyncio.to_thread(visit, served.port, other) == OTHER
                assert await asyncio.to_thread(ask, held) == SHIPPER
                held.close()
                await served.settled(6)
                assert await asyncio.to_thread(visit, served.port, good) == SHIPPER
            await served.settled(0)

    run(story())


def test_an_idle_connection_gives_way_to_who_waits(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.web.listening.tls_listener._IDLE_SECONDS", 0.0)

    async def story() -> None:
        async with serving(authority, max_connections=2, http=True) as served:
            with ExitStack() as stack:
                for _ in range(2):
                    held = stack.enter_context(await asyncio.to_thread(dial, served.port, good))
                    assert await asyncio.to_thread(ask, held) == SHIPPER
                # The other one is let in, and nobody has closed anything.
                assert await asyncio.to_thread(visit, served.port, good) == SHIPPER
                assert await served.reported(3) == ["ok"] * 3
            await served.settled(0)

    run(story())


def test_places_are_given_back_by_failed_handshakes(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext
) -> None:
    async def story() -> None:
        async with serving(authority, max_connections=1) as served:
            for _ in range(5):
                await asyncio.to_thread(refused, served.port, client_context(authority.ca_path))
            assert await asyncio.to_thread(visit, served.port, good) == SHIPPER
            await served.settled(0)
            assert served.outcomes == ["no_certificate"] * 5 + ["ok"]

    run(story())


def test_a_new_context_counts_from_the_next_connection(
    run: Run[Any], authority: TestAuthority, tmp_path: Path, good: ssl.SSLContext
) -> None:
    async def story() -> None:
        other = TestAuthority(tmp_path / "other", common_name="other authority")
        async with serving(authority) as served:
            old = await asyncio.to_thread(dial, served.port, good)
            with old:
                assert await asyncio.to_thread(ask, old) == SHIPPER
                served.context = await asyncio.to_thread(context_of, authority, client_ca=other.ca_path)
                assert await asyncio.to_thread(ask, old) == SHIPPER
                await asyncio.to_thread(refused, served.port, good)
                assert await served.reported(2) == ["ok", "unknown_ca"]

    run(story())


class FailingSocket(socket.socket):
    """Fails to accept as often as `failures` says, as a process without descriptors does."""

    failures: list[int]

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            number = self.failures.pop()
            raise OSError(number, os.strerror(number))
        return super().accept()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED])
def test_the_listener_outlives_failures_to_accept(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext, number: int
) -> None:
    plain = bind("127.0.0.1", 0)
    sock = FailingSocket(fileno=plain.detach())
    sock.setblocking(False)
    sock.failures = [number, number]

    async def story() -> None:
        async with serving(authority, sock=sock, max_connections=1) as served:
            assert await asyncio.to_thread(visit, served.port, good) == SHIPPER
            assert sock.failures == []

    run(story())


def test_a_report_that_fails_stops_nothing(run: Run[Any], authority: TestAuthority, good: ssl.SSLContext) -> None:
    async def report(_result: HandshakeResult) -> None:
        raise RuntimeError("the trail is gone")

    async def story() -> None:
        async with serving(authority, report=report) as served:
            for _ in range(2):
                assert await asyncio.to_thread(visit, served.port, good) == SHIPPER

    run(story())


def test_a_report_is_awaited(run: Run[Any], authority: TestAuthority, good: ssl.SSLContext) -> None:
    seen = []

    async def report(result: HandshakeResult) -> None:
        await asyncio.sleep(0)
        seen.append(result.outcome)

    async def story() -> None:
        async with serving(authority, report=report) as served:
            await asyncio.to_thread(visit, served.port, good)
            await served.settled(0)

    run(story())
    assert seen == ["ok"]


@pytest.mark.parametrize("oddity", ["no context"])
def test_a_context_that_can_not_be_had_fails_that_connection_only(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext, oddity: object
) -> None:
    async def story() -> None:
        async with serving(authority, max_connections=1) as served:
            working, served.context = served.context, oddity  # type: ignore[assignment]  # The oddity itself.
            await asyncio.to_thread(refused, served.port, good)
            assert await served.reported() == ["other"]
            served.context = working
            assert await asyncio.to_thread(visit, served.port, good) == SHIPPER

    run(story())


def test_stop_closes_the_port_and_leaves_open_connections_to_the_runner(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext
) -> None:
    async def story() -> None:
        async with serving(authority) as served:
            connection = await asyncio.to_thread(dial, served.port, good)
            with connection:
                await asyncio.to_thread(ask, connection)
                await served.listener.stop()
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.to_thread(dial, served.port, good)
                assert await asyncio.to_thread(ask, connection) == SHIPPER

    run(story())


def test_who_has_connected_before_the_stop_may_still_ask(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext
) -> None:
    async def story() -> None:
        async with serving(authority, handshake_seconds=60) as served:

            async def end() -> None:
                await served.listener.stop()
                await served.runner.cleanup()

            with await asyncio.to_thread(dial, served.port, good) as connection:
                await served.reported()
                ending = asyncio.create_task(end())
                await asyncio.sleep(0)
                assert await asyncio.to_thread(ask, connection) == SHIPPER
            async with asyncio.timeout(5):
                await ending

    run(story())


class StoppedSocket(socket.socket):
    """Stops the listener just when it has accepted."""

    stop: Callable[[], object]

    def accept(self) -> tuple[socket.socket, Any]:
        accepted = super().accept()
        self.stop()
        return accepted


def test_a_connection_that_is_accepted_just_when_the_listener_stops_is_answered(
    run: Run[Any], authority: TestAuthority, good: ssl.SSLContext
) -> None:
    sock = StoppedSocket(fileno=bind("127.0.0.1", 0).detach())
    sock.setblocking(False)

    async def story() -> None:
        async with serving(authority, sock=sock) as served:
            accepting = served.listener._acceptor._accepting
            assert accepting is not None
            # What `stop` does first, at the worst moment.
            sock.stop = accepting.cancel
            assert await asyncio.to_thread(visit, served.port, good) == SHIPPER

    run(story())


def test_stop_does_not_wait_for_ever_for_a_handshake(run: Run[Any], authority: TestAuthority) -> None:
    async def story() -> None:
        async with serving(authority, handshake_seconds=60) as served:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            await served.settled(1)
            async with asyncio.timeout(5):
                await served.listener.stop()
            assert served.listener.connections == 0
            writer.close()

    run(story())


def refused_settings(authority: TestAuthority, **files: Path) -> str:
    good = authority.server()
    arguments: dict[str, Any] = {"certificate": good.certificate, "key": good.key, "client_ca": authority.ca_path}
    with pytest.raises(SettingsInvalidError) as caught:
        server_context(**{**arguments, **files})
    return caught.value.detail


@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
def test_a_missing_file_is_named(authority: TestAuthority, tmp_path: Path, which: str) -> None:
    missing = tmp_path / "missing.pem"
    assert str(missing) in refused_settings(authority, **{which: missing})


@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("content", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_of_something_else_is_named(authority: TestAuthority, tmp_path: Path, which: str, content: str) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.touch(mode=0o600)
    wrong.write_text(content)
    assert str(wrong) in refused_settings(authority, **{which: wrong})


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602, 0o601])
def test_a_key_that_is_open_to_others_is_refused_with_its_mode_and_the_fix(authority: TestAuthority, mode: int) -> None:
    files = authority.server()
    files.key.chmod(mode)
    detail = refused_settings(authority, **files._asdict())
    assert str(files.key) in detail
    assert f"{mode:04o}" in detail
    assert f"chmod 600 {files.key}" in detail


def test_a_key_of_another_certificate_is_refused(authority: TestAuthority) -> None:
    assert "is not the key" in refused_settings(authority, key=authority.server().key)


def test_an_encrypted_key_is_refused_without_a_question(authority: TestAuthority) -> None:
    files = authority.server()
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"passphrase")
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    assert "encrypted" in refused_settings(authority, **files._asdict())


@pytest.mark.parametrize(("start", "end", "word"), [(-3, -1, "expired"), (1, 3, "not valid before")])
def test_a_server_certificate_outside_its_dates_is_refused(
    authority: TestAuthority, start: int, end: int, word: str
) -> None:
    now = dt.datetime.now(dt.UTC)
    files = authority.leaf(dns=("localhost",), not_before=now + start * DAY, not_after=now + end * DAY)
    assert word in refused_settings(authority, **files._asdict())


def test_a_leaf_is_no_authority_of_agents(authority: TestAuthority) -> None:
    assert "no certificate of an authority" in refused_settings(authority, client_ca=authority.server().certificate)


def test_the_context_has_every_strict_setting(authority: TestAuthority) -> None:
    context = context_of(authority)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.options & ssl.OP_NO_TICKET
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.num_tickets == 0


def test_the_expiry_of_a_file_is_that_of_the_first_certificate_to_expire(authority: TestAuthority) -> None:
    files = authority.server()
    files.certificate.write_bytes(files.certificate.read_bytes() + authority.ca_path.read_bytes())
    leaf = x509.load_pem_x509_certificates(files.certificate.read_bytes())[0]
    pair = read_pair(TlsFiles(**files._asdict(), client_ca=authority.ca_path), now=time.time())
    assert pair.validity == (leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())


def test_a_port_in_use_is_refused_by_number() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsInvalidError, match=f"port {port} .*another process"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no host", 0), ("a" * 300, 0), ("127.0.0.1", 70_000)])
def test_an_address_that_can_not_be_bound_is_refused(host: str, port: int) -> None:
    with pytest.raises(SettingsInvalidError):
        bind(host, port)


def test_the_socket_listens_and_never_blocks() -> None:
    with bind("127.0.0.1", 0) as sock:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ConnectionAbortedError("SSL handshake is taking longer"), HandshakeOutcome.TIMEOUT),
        (ConnectionAbortedError(errno.ECONNABORTED, "aborted"), HandshakeOutcome.RESET),
        (TimeoutError(), HandshakeOutcome.TIMEOUT),
        (ConnectionResetError(), HandshakeOutcome.RESET),
        (BrokenPipeError(), HandshakeOutcome.RESET),
        (ssl.SSLEOFError(8, "eof"), HandshakeOutcome.RESET),
        (ssl.SSLError(1, "something new"), HandshakeOutcome.OTHER),
        (OSError(errno.EIO, "io"), HandshakeOutcome.OTHER),
    ],
)
def test_each_kind_of_failure_has_its_name(error: OSError, outcome: HandshakeOutcome) -> None:
    assert handshake_failure_reason(error) is outcome


@pytest.mark.parametrize(
    ("code", "outcome"), [(23, "revoked"), (19, "unknown_ca"), (2, "unknown_ca"), (79, "invalid_certificate")]
)
def test_each_verification_code_has_its_name(code: int, outcome: str) -> None:
    error = ssl.SSLCertVerificationError(1, "verify failed")
    error.verify_code = code
    assert handshake_failure_reason(error) == outcome
