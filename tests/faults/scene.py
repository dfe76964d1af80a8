"""Agents over mTLS, a whole broker, a relay, and a real store behind it: where a fault is put on and taken away."""

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from broker.app import Service
from broker.clock import SystemClock
from broker.config_source import read_settings
from tests.certificates import Files, TestAuthority
from tests.faults.agents import EVERY, Agents, Seen
from tests.faults.asked import count
from tests.faults.matrix import Fault
from tests.faults.operations import Operations
from tests.faults.record import StoreRecord
from tests.faults.relay import Relay
from tests.faults.setting import BRIEF, COLD, MAX_BRIEF
from tests.openbao import OpenBao

_PATIENCE: Final = 40.0


class MovedClock(SystemClock):
    """The machine's clocks, moved on by a test: `ahead` both of them, `wall_ahead` the wall clock alone."""

    ahead = 0.0
    wall_ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead + self.wall_ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Scene:
    """One fault: `begin`, what the fault does, `ended`, `heals`."""

    def __init__(
        self,
        *,
        row: Fault,
        store: OpenBao,
        record: StoreRecord,
        relay: Relay,
        agents: Agents,
        settings: Path,
        operations_port: int,
        authority: TestAuthority,
        tls: ssl.SSLContext | None,
        values: Mapping[str, str],
    ) -> None:
        self.row = row
        self.authority = authority
        self._tls = tls
        self.store = store
        self.record = record
        self.relay = relay
        self.agents = agents
        self.settings = settings
        self.directory = settings.parent
        self.clock = MovedClock()
        # What the fault may do to a reference, besides a value that is right and marked.
        self.may_see: dict[str, set[str]] = {}
        # Whether agents may lose a connection, because the broker itself is away.
        self.may_lose = False
        self.values: dict[str, set[str]] = {reference: {value} for reference, value in values.items()}
        self.broker: Service
        self.operations = Operations(operations_port)
        self.began_at = self.ended_at = self.healed_at = 0.0
        self._ended_wall = self._brief_read = 0.0

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
        await self.until(
            lambda: {seen.reference for seen in self.agents.seen if seen.status == "ok"} >= set(self.values)
        )
        await self.until(lambda: self.broker.readiness.ready)
        assert await self._status_of(BRIEF) == "ok"
        self._brief_read = time.monotonic()

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
        self.began_at = time.monotonic()

    async def see(self, status: str, *references: str) -> None:
        """Return when the agents have seen `status` for each of `references` (all by default) since the begin."""
        for reference in references or tuple(self.values):
            await self.until(
                lambda reference=reference: any(
                    seen.reference == reference and seen.status == status for seen in self.since(self.began_at)
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

        monkeypatch.setattr("broker.providers.vault.way.resolver.socket.getaddrinfo", fail)
        return asked

    async def unready(self, reason: str, *, is_away: bool = True) -> None:
        """Return when `/readyz` and the metrics say that the store is not ready, and why.

        Where it is away as a whole, it is no more asked than a probe now and then, and the metrics say that too.
        """

        async def told() -> bool:
            status, vault = await self.operations.readyz()
            return (
                (status, vault["ready"]) == (503, False)
                and reason in vault["reason"]
                and await self.operations.series("broker_dependency_ready", dependency="vault") == 0
                and await self.operations.series("broker_upstream_breaker_open", provider="vault") == is_away
            )

        await self.until_true(told, f"/readyz tells of `{reason}`, and the metrics too")

    async def serves_stale(self, reason: str, *, is_away: bool = True) -> None:
        """Return when agents get what was read as stale and nothing else, and the platform is told why."""
        await self.see("stale")
        await self.unready(reason, is_away=is_away)
        await self.refuse()

    async def stays_ready(self) -> None:
        """Assert that `/readyz` and the metrics say that the store is well."""
        status, vault = await self.operations.readyz()
        assert (status, vault["ready"], vault["reason"]) == (200, True, "")
        assert await self.operations.series("broker_dependency_ready", dependency="vault") == 1

    @property
    def said(self) -> str:
        state = self.broker.readiness.snapshot()["vault"]
        return "" if state.ready else state.reason

    async def refuse(self, *references: str) -> None:
        """Assert that these are unavailable, with a time to come back: by default what was never read, and what was.

        The latter was read a second or more ago, which is all that it may be used for.
        """
        await asyncio.sleep(self._brief_read + MAX_BRIEF - time.monotonic())
        for reference in references or (COLD, BRIEF):
            status, document, retry_after = await self.agents.ask(reference, require="all")
            assert status == 503, document
            assert document["results"][0]["status"] == "unavailable", document
            assert retry_after >= 1

    def ended(self) -> None:
        """Let the fault be over from now on."""
        self.ended_at = time.monotonic()
        self._ended_wall = self.clock.now()

    async def heals(self, *references: str) -> None:
        """Return when the agents have values read after the end, the others are read, and the broker is ready."""
        for reference in references or tuple(self.values):
            await self.until(lambda reference=reference: self._is_fresh(reference), f"{reference} is fresh again")
        await self.until(lambda: self.broker.readiness.ready, "ready again")
        for reference in (COLD, BRIEF):
            while await self._status_of(reference) != "ok":
                assert time.monotonic() - self.ended_at < _PATIENCE, f"{reference} is read"
                await asyncio.sleep(EVERY)
        self.healed_at = time.monotonic()
        took = self.healed_at - self.ended_at
        assert took <= self.row.heals_within, f"healed after {took:.1f} s, promised within {self.row.heals_within} s"
        await self.stays_ready()
        assert await self.operations.series("broker_upstream_breaker_open", provider="vault") == 0

    async def _status_of(self, reference: str) -> str:
        return str((await self.agents.ask(reference))[1]["results"][0]["status"])

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

    async def until_true(self, done: Callable[[], Awaitable[bool]], what: str) -> None:
        """Return as soon as `done` says so; fail when it never does."""
        deadline = time.monotonic() + _PATIENCE
        while not await done():
            assert time.monotonic() < deadline, f"not in {_PATIENCE:.0f} s: {what}; readiness says {self.said!r}"
            await asyncio.sleep(0.05)

    async def until_store(self, done: Callable[[], bool]) -> None:
        """Return as soon as `done`, which asks a store and blocks, says so; fail when it never does."""
        await self.until_true(lambda: asyncio.to_thread(done), "the store gets there")

    async def asked(self, part: str = "/data/") -> int:
        """Return how many requests with `part` in their path are in the store's audit log."""
        return count(await asyncio.to_thread(self.record.audited), part)

    def since(self, moment: float) -> Sequence[Seen]:
        return [seen for seen in self.agents.seen if seen.at >= moment]

    def statuses(self) -> set[str]:
        """Return what the agents have seen since the begin."""
        return {seen.status for seen in self.since(self.began_at)}

    def failures(self) -> list[Seen]:
        """Return what was answered against the promise: without a value where there is one, or with a wrong one."""
        return [seen for seen in self.agents.seen if not self._is_kept(seen)]

    def _is_kept(self, seen: Seen) -> bool:
        if seen.status in {"ok", "stale"}:
            return seen.value in self.values[seen.reference]
        return seen.status in self.may_see.get(seen.reference, ())


def _rfc3339(wall: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall)) + f".{int(wall % 1 * 1000):03d}Z"
