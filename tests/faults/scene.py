"""Agents over mTLS, a whole broker, a relay, and a real store behind it: where a fault is put on and taken away."""

import asyncio
import json
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from broker.app import Service
from broker.audit.event import EventKind
from broker.audit.search import Query
from broker.audit.verify import verify
from broker.cli.child import free_port
from broker.clock import SystemClock
from broker.config_source import read_settings
from broker.implementations import open_trail_reader
from tests.certificates import Files, TestAuthority
from tests.faults.matrix import Fault, Measured, write_result
from tests.faults.relay import Relay
from tests.openbao import OpenBao
from tests.vaults import private

# Two secrets under load, so that what happens to the first must leave the second alone; one that nobody reads before.
APP: Final = "vault:secret/app#v"
DB: Final = "vault:secret/db#v"
COLD: Final = "vault:secret/cold#v"
VALUES: Final = {APP: "value-of-app", DB: "value-of-db"}
FRESH_FOR: Final = 1.0
MAX_STALE: Final = 3600.0
PER_SECOND: Final = 20
PROBE_SECONDS: Final = 1.0
_AGENTS: Final = 3
_EVERY: Final = 0.1
_PATIENCE: Final = 40.0
AGENT: Final = "spiffe://test.example/logflux/agent"
# Broad enough for KV version 1 too, should the mount become one; and what the store mints, where it does.
READER: Final = """
path "secret/*" { capabilities = ["read"] }
path "database/creds/*" { capabilities = ["read"] }
"""


class MovedClock(SystemClock):
    """The machine's clocks, moved on by a test: `ahead` both of them, `wall_ahead` the wall clock alone."""

    ahead = 0.0
    wall_ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead + self.wall_ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@dataclass(frozen=True, slots=True)
class Seen:
    """One reference of one answer, as an agent saw it at a steady time."""

    at: float
    seconds: float
    reference: str
    status: str
    value: str | None
    fetched_at: str


class Agents:
    """Ask again and again, each agent on a kept connection of its own; keep every answer."""

    def __init__(self, *, authority: TestAuthority, references: Sequence[str]) -> None:
        files = authority.agent(AGENT)
        self._context = ssl.create_default_context(cafile=str(authority.ca_path))
        self._context.load_cert_chain(*files)
        self._references = references
        self._tasks: list[asyncio.Task[None]] = []
        self.url = ""
        self.requests = 0
        self.answered = 0
        self.lost: list[float] = []
        self.seen: list[Seen] = []

    def start(self, url: str) -> None:
        self.url = url
        self._tasks = [asyncio.create_task(self._keep_asking()) for _ in range(_AGENTS)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def ask(self, *references: str, require: str = "any") -> tuple[int, dict[str, Any], float]:
        """Return status, document and `Retry-After` (0 when there is none) of one request of its own."""
        async with self._session() as session:
            return await self._post(session, references, require)

    async def _keep_asking(self) -> None:
        async with self._session() as session:
            while True:
                began = time.monotonic()
                try:
                    _, document, _ = await self._post(session, self._references, "any")
                except (aiohttp.ClientError, OSError):
                    self.lost.append(time.monotonic())
                    await asyncio.sleep(_EVERY)
                    continue
                ended = time.monotonic()
                for result in document["results"]:
                    self.seen.append(
                        Seen(
                            ended,
                            ended - began,
                            result["reference"],
                            result["status"],
                            result.get("value"),
                            result.get("fetched_at", ""),
                        )
                    )
                await asyncio.sleep(_EVERY)

    async def _post(
        self, session: aiohttp.ClientSession, references: Sequence[str], require: str
    ) -> tuple[int, dict[str, Any], float]:
        self.requests += 1
        body = {"references": list(references), "require": require}
        async with session.post(f"{self.url}/v1/resolve", json=body) as answer:
            document = json.loads(await answer.read())
            self.answered += 1
            return answer.status, document, float(answer.headers.get("Retry-After", 0))

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=self._context)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))


class Scene:
    """One fault: `begin`, what the fault does, `ended`, `heals`."""

    def __init__(
        self,
        *,
        row: Fault,
        store: OpenBao,
        relay: Relay,
        agents: Agents,
        settings: Path,
        authority: TestAuthority,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.row = row
        self.authority = authority
        self._tls = tls
        self.store = store
        self.relay = relay
        self.agents = agents
        self.settings = settings
        self.directory = settings.parent
        self.clock = MovedClock()
        # What the fault may do to a reference, besides a value that is right and marked.
        self.may_see: dict[str, set[str]] = {}
        # Whether agents may lose a connection, because the broker itself is away.
        self.may_lose = False
        self.values: dict[str, set[str]] = {reference: {value} for reference, value in VALUES.items()}
        self.broker: Service
        self._ready = asyncio.Event()
        self._began = self._ended = self._healed = 0.0

    async def start_broker(self) -> None:
        """Start a broker in this process, which is the scene's from now on."""
        settings = await asyncio.to_thread(read_settings, self.settings, environment={})
        self.broker = await asyncio.to_thread(Service, settings=settings, clock=self.clock)
        await self.broker.start()
        self.agents.url = f"https://127.0.0.1:{self.broker.agent_port}"

    async def stop_broker(self) -> None:
        """End the broker in order; a second call does nothing."""
        await self.broker.stop()

    async def warm(self) -> None:
        """Let the agents begin, and return when each reference was answered and the broker is ready."""
        self.agents.start(self.agents.url)
        await self.until(lambda: {seen.reference for seen in self.agents.seen if seen.status == "ok"} >= set(VALUES))
        await self.until(lambda: self.broker.readiness.ready)

    async def kill_store(self) -> None:
        """End the store as a crash does; nothing listens at its address any more."""
        await asyncio.to_thread(self.store.kill)
        await self.relay.aclose()

    async def start_store(self) -> None:
        """Start the store again at its address."""
        await asyncio.to_thread(self.store.start)
        await self.relay.start()

    def begin(self) -> None:
        """Let the fault begin now."""
        self._began = time.monotonic()

    async def see(self, status: str, *references: str) -> None:
        """Return when the agents have seen `status` for each of `references` (all by default) since the begin."""
        for reference in references or tuple(VALUES):
            await self.until(
                lambda reference=reference: any(
                    seen.reference == reference and seen.status == status for seen in self._since(self._began)
                ),
                f"{reference} is {status}",
            )

    async def show(self, files: Files) -> None:
        """Let the relay show this certificate to every connection from now on; there are none from before."""
        assert self._tls is not None
        await asyncio.to_thread(self._tls.load_cert_chain, *files)
        self.relay.reset()

    def lose_names(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Let the system's resolver know no names any more; return the list to which it adds who was asked for."""
        asked: list[str] = []

        def fail(host: str, *_arguments: Any, **_options: Any) -> None:
            asked.append(host)
            raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")

        monkeypatch.setattr("broker.providers.vault.resolver.socket.getaddrinfo", fail)
        return asked

    async def unready(self, reason: str) -> None:
        """Return when readiness says that the store is not ready, and why."""
        await self.until(lambda: reason in self.said, f"readiness tells of `{reason}`")
        assert not self.broker.readiness.ready

    @property
    def said(self) -> str:
        state = self.broker.readiness.snapshot()["vault"]
        return "" if state.ready else state.reason

    async def refuse_the_unread(self, reference: str = COLD) -> None:
        """Assert that a secret that was not read before is unavailable, with a time to come back."""
        status, document, retry_after = await self.agents.ask(reference, require="all")
        assert status == 503, document
        assert document["results"][0]["status"] == "unavailable", document
        assert retry_after >= 1

    def ended(self) -> None:
        """Let the fault be over from now on."""
        self._ended = time.monotonic()
        self._ended_wall = self.clock.now()

    async def heals(self, *references: str) -> None:
        """Return when the agents have values read after the end, the unread is read, and the broker is ready."""
        for reference in references or tuple(VALUES):
            await self.until(lambda reference=reference: self._is_fresh(reference), f"{reference} is fresh again")
        await self.until(lambda: self.broker.readiness.ready, "ready again")
        while (await self.agents.ask(COLD))[1]["results"][0]["status"] != "ok":
            assert time.monotonic() - self._ended < _PATIENCE, "what was never read is read"
            await asyncio.sleep(_EVERY)
        self._healed = time.monotonic()
        took = self._healed - self._ended
        assert took <= self.row.heals_within, f"healed after {took:.1f} s, promised within {self.row.heals_within} s"

    def _is_fresh(self, reference: str) -> bool:
        last = next((seen for seen in reversed(self.agents.seen) if seen.reference == reference), None)
        if last is None or last.status != "ok":
            return False
        # The broker tells whole milliseconds of its wall clock.
        return last.fetched_at >= _rfc3339(self._ended_wall)

    async def until(self, done: Callable[[], bool], what: str = "") -> None:
        """Return as soon as `done` does; fail when it never does."""
        deadline = time.monotonic() + _PATIENCE
        while not done():
            assert time.monotonic() < deadline, f"not in {_PATIENCE:.0f} s: {what}; readiness says {self.said!r}"
            await asyncio.sleep(0.02)

    async def until_store(self, done: Callable[[], bool]) -> None:
        """Return as soon as `done`, which asks a store and blocks, says so; fail when it never does."""
        deadline = time.monotonic() + _PATIENCE
        while not await asyncio.to_thread(done):
            assert time.monotonic() < deadline, "the store does not get there"
            await asyncio.sleep(0.05)

    def _since(self, moment: float) -> Sequence[Seen]:
        return [seen for seen in self.agents.seen if seen.at >= moment]

    def statuses(self) -> set[str]:
        """Return what the agents have seen since the begin."""
        return {seen.status for seen in self._since(self._began)}

    def failures(self) -> list[Seen]:
        """Return what was answered against the promise: without a value where there is one, or with a wrong one."""
        return [seen for seen in self.agents.seen if not self._is_kept(seen)]

    def _is_kept(self, seen: Seen) -> bool:
        if seen.status in {"ok", "stale"}:
            return seen.value in self.values[seen.reference]
        return seen.status in self.may_see.get(seen.reference, ())

    async def audit(self) -> None:
        """Assert that every answer is on record, and that the trail verifies."""
        records, findings = await asyncio.to_thread(_read_trail, self.directory / "state" / "audit.db")
        assert self.agents.answered <= records <= self.agents.requests, "each answer has its record"
        assert findings == ()

    def within_budget(self) -> None:
        """Assert that no window of any length has more requests than a full bucket and what flowed in meanwhile."""
        for seconds in (0.5, 1.0, 2.0, 5.0, 10.0):
            # The relay sees a request later than the broker sends it; on a loaded machine up to a tenth of a second.
            assert self.relay.peak(seconds) <= PER_SECOND * (1 + seconds + 0.1), f"within {seconds} s"

    def measured(self) -> Measured:
        seen = [one for one in self._since(self._began) if one.at <= self._healed]
        counts = Counter(one.status for one in seen)
        requests = [asked for asked in self.relay.asked if self._began <= asked.at <= self._healed]
        return Measured(
            fresh=counts["ok"],
            stale=counts["stale"],
            refused=sum(counts.values()) - counts["ok"] - counts["stale"],
            failed=len(self.failures()) + (0 if self.may_lose else len(self.agents.lost)),
            slowest=max((one.seconds for one in seen), default=0.0),
            lasted=self._ended - self._began,
            requests=len(requests),
            peak=self.relay.peak(since=self._began, until=self._healed),
            healed=self._healed - self._ended,
        )

    async def finish(self) -> None:
        """Assert what holds for every fault, and keep the figures; a test that did not get to the healing has none."""
        await self.agents.stop()
        await self.broker.stop()
        if not self._healed:
            return
        await self.audit()
        self.within_budget()
        assert self.failures() == []
        assert self.may_lose or self.agents.lost == []
        write_result(self.row, self.measured())


def _rfc3339(wall: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall)) + f".{int(wall % 1 * 1000):03d}Z"


def _read_trail(database: Path) -> tuple[int, tuple[object, ...]]:
    reader = open_trail_reader(database)
    records = sum(1 for _ in reader.records(Query(kind=EventKind.RESOLVE)))
    return records, verify(reader).findings


def fill(store: OpenBao, directory: Path, **role: Any) -> None:
    """Put the secrets and the broker's role into a store, and the broker's credential into `directory`."""
    for name in ("app", "db", "cold"):
        store.put_secret(name, v=f"value-of-{name}")
    store.policy("broker", READER)
    role_id, secret_id = store.approle("broker", ["broker"], **role)
    private(directory / "role_id", role_id)
    private(directory / "secret_id", secret_id)


def write_settings(
    directory: Path, authority: TestAuthority, addresses: Sequence[str], more: Mapping[str, Any]
) -> Path:
    """Write settings and policy of a broker whose time-outs are short."""
    server = authority.server()
    rule = {
        "name": "agents read",
        "allow": ["vault:secret/**#*", "vault:database/**#*"],
        "to": ["agent"],
        "fresh_for": "1s",
        "max_stale": "1h",
    }
    policy = {"identities": {"agent": {"spiffe": AGENT, "environment": "test"}}, "rules": [rule]}
    (directory / "policy.yaml").write_text(json.dumps(policy))
    auth = {"role_id_file": str(directory / "role_id"), "secret_id_file": str(directory / "secret_id")}
    vault = {
        "addresses": list(addresses),
        "auth": {"approle": auth},
        "connect_seconds": 1,
        "total_seconds": 1,
        "requests_per_second": PER_SECOND,
        "probe_seconds": PROBE_SECONDS,
        **more,
    }
    settings = {
        "state_directory": str(directory / "state"),
        "policy_file": str(directory / "policy.yaml"),
        # A port of its own, which a restarted broker has too.
        "listen": {"host": "127.0.0.1", "port": free_port()},
        "operations": {"host": "127.0.0.1", "port": 0},
        "tls": {
            "certificate": str(server.certificate),
            "key": str(server.key),
            "client_ca": str(authority.ca_path),
        },
        "providers": {"vault": vault},
    }
    file = directory / "broker.yaml"
    file.write_text(json.dumps(settings))
    return file


@asynccontextmanager
async def staged(
    row: Fault, store: OpenBao, directory: Path, *, over_tls: bool = False, host: str = "127.0.0.1", **more: Any
) -> AsyncIterator[Scene]:
    """Yield a scene whose agents are busy; afterwards assert what holds for every fault."""
    authority = await asyncio.to_thread(TestAuthority, directory / "pki")
    tls = await asyncio.to_thread(_server_context, authority) if over_tls else None
    relay = Relay(store.port, tls=tls)
    await relay.start()
    if over_tls:
        more["ca_file"] = str(authority.ca_path)
    address = relay.address.replace("127.0.0.1", host)
    settings = await asyncio.to_thread(write_settings, directory, authority, [address], more)
    agents = await asyncio.to_thread(Agents, authority=authority, references=tuple(VALUES))
    scene = Scene(row=row, store=store, relay=relay, agents=agents, settings=settings, authority=authority, tls=tls)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(relay.aclose)
        await scene.start_broker()
        stack.push_async_callback(scene.stop_broker)
        stack.push_async_callback(agents.stop)
        await scene.warm()
        yield scene
        await scene.finish()


def _server_context(authority: TestAuthority) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.server())
    return context


def row_of(request: pytest.FixtureRequest) -> Fault:
    """Return the row that the test carries."""
    row = request.function.fault
    assert isinstance(row, Fault)
    return row
