"""Rotation over real TLS: what a new certificate, authority or revocation list means for new and open connections."""

import asyncio
import datetime as dt
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from broker.audit.event import EventKind, Outcome
from broker.errors import IdentityRefusedError, SettingsInvalidError
from broker.finding import FoundError
from broker.reload import Reloader
from broker.web.listening.binding import bind
from broker.web.listening.tls_listener import HandshakeResult, TlsListener
from broker.web.tls.certificates import TlsFiles, read_pair, read_trust
from broker.web.tls.credentials import Credentials
from broker.web.tls.peers import Peers
from tests.certificates import Files, TestAuthority, client_context
from tests.dialing import ask, dial
from tests.fakes import FakeTrail, fake_metrics

SHIPPER = "spiffe://test.example/logflux/shipper"
DAY = dt.timedelta(days=1)


class MovedClock:
    """The machine's clock, some seconds ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic()


class Served:
    """A listener whose credentials are reloaded, and a client of it."""

    def __init__(self, files: TlsFiles, authority: TestAuthority, behind: dt.timedelta) -> None:
        self.files = files
        self.authority = authority
        self.clock = MovedClock()
        self.clock.ahead = -behind.total_seconds()
        self.metrics = fake_metrics()
        self.trail = FakeTrail()
        self.credentials = Credentials(files=files, clock=self.clock, metrics=self.metrics)
        self.reloader = Reloader(parts=[self.credentials], trail=self.trail, metrics=self.metrics, seconds=0.01)
        self.peers = Peers(trust=self.credentials)
        self.handshakes: list[str] = []
        self.port = 0

    def report(self, result: HandshakeResult) -> None:
        self.handshakes.append(result.outcome)

    async def answer(self, request: web.Request) -> web.Response:
        try:
            return web.Response(text=self.peers.peer_of(request, now=self.clock.now()).name)
        except IdentityRefusedError as error:
            return web.Response(text=error.reason.value)

    async def connect(self, agent: Files, *, trusting: Path | None = None) -> ssl.SSLSocket:
        return await asyncio.to_thread(dial, self.port, client_context(trusting or self.authority.ca_path, agent))

    async def visit(self, agent: Files) -> str:
        """Return the answer on a new connection, or why the handshake failed."""
        before = len(self.handshakes)
        try:
            with await self.connect(agent) as connection:
                answer = await asyncio.to_thread(ask, connection)
        except (ssl.SSLError, ConnectionError):
            answer = ""
        async with asyncio.timeout(10):
            while len(self.handshakes) == before:  # noqa: ASYNC110  What is waited for is told by no event.
                await asyncio.sleep(0.005)
        return answer or self.handshakes[-1]

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def serial(connection: ssl.SSLSocket) -> int:
    der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def install(files: Files, served: TlsFiles) -> None:
    """Put a new pair in the place of the one in use, each file at once, as `mv` does."""
    for source, target in ((files.certificate, served.certificate), (files.key, served.key)):
        source.replace(target)


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "pki")


@pytest.fixture
def other(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "other", common_name="new authority")


@asynccontextmanager
async def serving(
    authority: TestAuthority, *, behind: dt.timedelta = dt.timedelta(), **more: object
) -> AsyncIterator[Served]:
    def prepare() -> Served:
        pair = authority.leaf(dns=("localhost",), eku="server", not_before=dt.datetime.now(dt.UTC) - 9 * DAY)
        bundle = authority.directory / "agents-ca.crt"
        bundle.write_bytes(authority.ca_path.read_bytes())
        files = TlsFiles(certificate=pair.certificate, key=pair.key, client_ca=bundle)
        return Served(replace(files, **more), authority, behind)  # type: ignore[arg-type]

    served = await asyncio.to_thread(prepare)
    application = web.Application()
    application.router.add_get("/", served.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    sock = bind("127.0.0.1", 0)
    served.port = sock.getsockname()[1]
    listener = TlsListener(
        protocol=runner.server,
        sock=sock,
        context=served.credentials.context,
        on_handshake=served.report,
        name_of=served.peers.name_at,
    )
    await listener.start()
    try:
        yield served
    finally:
        await listener.stop()
        await runner.cleanup()


async def test_a_new_certificate_is_shown_to_new_connections_and_open_ones_go_on(authority: TestAuthority) -> None:
    agent = authority.agent()
    async with serving(authority) as served:
        old = await served.connect(agent)
        with old:
            assert await asyncio.to_thread(ask, old) == SHIPPER
            fresh = authority.server()
            expected = fresh.parsed.serial_number
            await asyncio.to_thread(install, fresh, served.files)
            assert await served.reloader.reload()
            with await served.connect(agent) as new:
                assert serial(new) == expected
                assert serial(new) != serial(old)
                assert await asyncio.to_thread(ask, new) == SHIPPER
            assert await asyncio.to_thread(ask, old) == SHIPPER
    [event] = served.trail.events
    assert (event.kind, event.outcome, event.details["part"]) == (
        EventKind.CONFIGURATION,
        Outcome.SUCCESS,
        "certificate",
    )


async def test_a_certificate_without_its_key_keeps_the_old_pair_and_says_so(
    authority: TestAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    agent = authority.agent()
    async with serving(authority) as served:
        before = await served.connect(agent)
        with before:
            old = serial(before)
        in_force = await asyncio.to_thread(read_pair, served.files, now=served.clock.now())
        await asyncio.to_thread(authority.server().certificate.replace, served.files.certificate)
        assert not await served.reloader.reload()
        with await served.connect(agent) as after:
            assert serial(after) == old
    [event] = served.trail.events
    assert (event.outcome, event.reason) == (Outcome.FAILURE, "key_mismatch")
    assert event.details == {"part": "certificate", "in_force": in_force.digest}
    assert served.value("broker_configuration_reloads_total", part="certificate", outcome="refused") == 1
    assert served.value("broker_configuration_last_reload_successful", part="certificate") == 0
    assert "is not the key of the first certificate" in caplog.text


async def test_a_bad_certificate_does_not_hold_up_a_revocation(authority: TestAuthority) -> None:
    agent, spare = authority.agent(), authority.agent()
    crl = authority.crl()
    async with serving(authority, client_crl=crl) as served:
        await asyncio.to_thread(served.files.certificate.write_text, "nonsense")
        await asyncio.to_thread(authority.crl, agent, number=2)
        assert not await served.reloader.reload()
        assert await served.visit(agent) == "revoked"
        assert await served.visit(spare) == SHIPPER


async def test_the_change_of_an_authority_with_two_in_the_bundle(
    authority: TestAuthority, other: TestAuthority
) -> None:
    old_agent, new_agent = authority.agent(), other.agent()
    async with serving(authority) as served:
        bundle = served.files.client_ca
        assert await served.visit(new_agent) == "unknown_ca"
        both = authority.ca_path.read_bytes() + other.ca_path.read_bytes()
        await asyncio.to_thread(bundle.write_bytes, both)
        assert await served.reloader.reload()
        assert await served.visit(old_agent) == await served.visit(new_agent) == SHIPPER
        old, new = await served.connect(old_agent), await served.connect(new_agent)
        with old, new:
            assert await asyncio.to_thread(ask, old) == SHIPPER
            await asyncio.to_thread(bundle.write_bytes, other.ca_path.read_bytes())
            assert await served.reloader.reload()
            assert await served.visit(old_agent) == "unknown_ca"
            assert await asyncio.to_thread(ask, old) == "authority_dropped"
            assert await asyncio.to_thread(ask, new) == SHIPPER
            assert await served.visit(new_agent) == SHIPPER


async def test_a_revoked_agent_is_refused_on_its_open_connection_and_in_new_handshakes(
    authority: TestAuthority,
) -> None:
    revoked, spare = authority.agent(), authority.agent()
    async with serving(authority, client_crl=authority.crl()) as served:
        first, second = await served.connect(revoked), await served.connect(spare)
        with first, second:
            assert await asyncio.to_thread(ask, first) == await asyncio.to_thread(ask, second) == SHIPPER
            await asyncio.to_thread(authority.crl, revoked, number=2)
            assert await served.reloader.reload()
            assert await asyncio.to_thread(ask, first) == "revoked"
            assert await asyncio.to_thread(ask, second) == SHIPPER
        assert await served.visit(revoked) == "revoked"
        assert await served.visit(spare) == SHIPPER


@pytest.mark.parametrize(("keep", "answer"), [(False, "revocation_unknown"), (True, SHIPPER)])
async def test_a_list_past_its_end_refuses_open_connections_unless_it_is_kept(
    authority: TestAuthority, keep: bool, answer: str
) -> None:
    agent = authority.leaf(uris=(SHIPPER,), not_after=dt.datetime.now(dt.UTC) + 9 * DAY)
    async with serving(authority, client_crl=authority.crl(end=DAY), keep_stale=keep) as served:
        connection = await served.connect(agent)
        with connection:
            assert await asyncio.to_thread(ask, connection) == SHIPPER
            assert served.credentials.health() == ""
            served.clock.ahead = DAY.total_seconds() - 30
            assert ("revocation list" in served.credentials.health()) is not keep, "before the list bites"
            served.clock.ahead = DAY.total_seconds() + 1
            assert await asyncio.to_thread(ask, connection) == answer


@pytest.mark.parametrize("keep", [False, True])
async def test_a_list_past_its_end_refuses_new_connections_unless_it_is_kept(
    authority: TestAuthority, keep: bool
) -> None:
    agent, revoked = authority.agent(), authority.agent()
    crl = authority.crl(revoked, start=-3 * DAY, end=-DAY)
    # The broker has read the list in time; OpenSSL goes by the machine's clock, which no test can move.
    async with serving(authority, behind=2 * DAY, client_crl=crl, keep_stale=keep) as served:
        assert await served.visit(agent) == "revocation_unknown"
        served.clock.ahead = 0
        assert await served.visit(agent) == (SHIPPER if keep else "revocation_unknown")
        # A list that is kept is asked at each request, where OpenSSL would refuse everyone.
        assert await served.visit(revoked) == ("revoked" if keep else "revocation_unknown")


async def test_a_volume_that_is_swapped_as_kubernetes_does_is_noticed(authority: TestAuthority, tmp_path: Path) -> None:
    agent = authority.agent()
    volume = tmp_path / "volume"

    def fill(name: str) -> int:
        pair = authority.server()
        directory = volume / name
        directory.mkdir(parents=True)
        pair.certificate.replace(directory / "tls.crt")
        pair.key.replace(directory / "tls.key")
        (volume / "..data_tmp").symlink_to(name)
        (volume / "..data_tmp").replace(volume / "..data")
        return x509.load_pem_x509_certificate((directory / "tls.crt").read_bytes()).serial_number

    await asyncio.to_thread(fill, "..2026_1")
    for name in ("tls.crt", "tls.key"):
        (volume / name).symlink_to(f"..data/{name}")
    async with serving(authority, certificate=volume / "tls.crt", key=volume / "tls.key") as served:
        watching = asyncio.create_task(served.reloader.watch())
        await asyncio.sleep(0.05)
        expected = await asyncio.to_thread(fill, "..2026_2")
        async with asyncio.timeout(10):
            while not served.trail.events:  # noqa: ASYNC110  What is waited for is told by no event.
                await asyncio.sleep(0.01)
        watching.cancel()
        with await served.connect(agent) as connection:
            assert serial(connection) == expected


class WrittenUnderWay:
    """A part whose files are replaced one by one, each just before a look at them."""

    def __init__(self, part: Credentials, moves: list[Callable[[], object]]) -> None:
        self.part = part
        self.name = part.name
        self.read = part.read
        self.moves = moves

    @property
    def watched(self) -> Sequence[Path]:
        if self.moves:
            self.moves.pop(0)()
        return self.part.watched


async def test_a_pair_that_is_written_file_by_file_is_read_when_it_stands_still(authority: TestAuthority) -> None:
    async with serving(authority) as served:
        fresh = await asyncio.to_thread(authority.server)
        moves: list[Callable[[], object]] = [
            lambda: None,
            lambda: fresh.certificate.replace(served.files.certificate),
            lambda: served.files.client_ca.write_bytes(authority.ca_path.read_bytes() + b"\n"),
            lambda: fresh.key.replace(served.files.key),
        ]
        part = WrittenUnderWay(served.credentials, moves)
        reloader = Reloader(parts=[part], trail=served.trail, metrics=served.metrics, seconds=0.01)
        watching = asyncio.create_task(reloader.watch())
        async with asyncio.timeout(20):
            while not served.trail.events:  # noqa: ASYNC110  As above.
                await asyncio.sleep(0.01)
        watching.cancel()
    assert {event.outcome for event in served.trail.events} == {Outcome.SUCCESS}


def refused_list(authority: TestAuthority, crl: Path, *, client_ca: Path | None = None, **more: bool) -> str:
    files = TlsFiles(
        certificate=Path("/unused"),
        key=Path("/unused"),
        client_ca=client_ca or authority.ca_path,
        client_crl=crl,
        **more,
    )
    with pytest.raises(FoundError) as caught:
        read_trust(files, now=time.time())
    return caught.value.finding.code


def test_a_list_that_ended_is_refused_unless_it_is_kept(authority: TestAuthority) -> None:
    crl = authority.crl(start=-2 * DAY, end=-DAY)
    assert refused_list(authority, crl) == "crl_stale"
    files = TlsFiles(certificate=crl, key=crl, client_ca=authority.ca_path, client_crl=crl, keep_stale=True)
    assert read_trust(files, now=time.time()).lists is not None


def test_a_list_from_the_future_is_refused(authority: TestAuthority) -> None:
    assert refused_list(authority, authority.crl(start=DAY, end=2 * DAY)) == "crl_not_yet_valid"


def test_a_list_signed_by_another_key_of_the_same_name_is_refused(authority: TestAuthority, tmp_path: Path) -> None:
    impostor = TestAuthority(tmp_path / "impostor")
    assert refused_list(authority, authority.crl(signer=impostor)) == "crl_foreign"


def test_a_list_of_an_unknown_authority_is_refused(authority: TestAuthority, other: TestAuthority) -> None:
    assert refused_list(authority, other.crl()) == "crl_foreign"


def test_an_authority_without_a_list_is_refused_since_its_agents_would_be(
    authority: TestAuthority, other: TestAuthority, tmp_path: Path
) -> None:
    bundle = tmp_path / "both.crt"
    bundle.write_bytes(authority.ca_path.read_bytes() + other.ca_path.read_bytes())
    assert refused_list(authority, authority.crl(), client_ca=bundle) == "crl_missing"
    both = tmp_path / "both.crl"
    both.write_bytes(authority.crl().read_bytes() + other.crl().read_bytes())
    files = TlsFiles(certificate=both, key=both, client_ca=bundle, client_crl=both)
    assert read_trust(files, now=time.time()).lists is not None


@pytest.mark.parametrize("content", [b"", b"no list", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"])
def test_what_is_no_list_is_refused(authority: TestAuthority, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "wrong.crl"
    file.write_bytes(content)
    assert refused_list(authority, file) == "crl_malformed"


def test_a_missing_list_is_named(authority: TestAuthority, tmp_path: Path) -> None:
    assert refused_list(authority, tmp_path / "nothing.crl") == "file_missing"


def test_a_list_in_der_is_taken(authority: TestAuthority) -> None:
    agent = authority.agent()
    crl = authority.crl(agent, encoding=serialization.Encoding.DER)
    lists = read_trust(
        TlsFiles(certificate=crl, key=crl, client_ca=authority.ca_path, client_crl=crl), now=time.time()
    ).lists
    assert lists is not None
    assert {name.partition("@")[0] for name in lists.revoked} == {f"{agent.parsed.serial_number:x}"}


async def test_a_list_with_a_lower_number_than_the_one_in_force_is_refused(authority: TestAuthority) -> None:
    agent = authority.agent()
    async with serving(authority, client_crl=authority.crl(agent, number=7)) as served:
        await asyncio.to_thread(authority.crl, number=6)
        assert not await served.reloader.reload()
        assert served.trail.events[-1].reason == "crl_older"
        assert await served.visit(agent) == "revoked"


def test_a_bundle_of_expired_authorities_is_refused_and_one_good_authority_is_enough(
    authority: TestAuthority, tmp_path: Path
) -> None:
    expired = TestAuthority(tmp_path / "expired", common_name="old", not_after=-DAY)
    with pytest.raises(SettingsInvalidError, match="last authority expired"):
        read_trust(TlsFiles(certificate=tmp_path, key=tmp_path, client_ca=expired.ca_path), now=time.time())
    bundle = tmp_path / "both.crt"
    bundle.write_bytes(expired.ca_path.read_bytes() + authority.ca_path.read_bytes())
    trust = read_trust(TlsFiles(certificate=bundle, key=bundle, client_ca=bundle), now=time.time())
    assert trust.validity.not_after > time.time()
