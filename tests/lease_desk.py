"""The leases of one broker, with a provider that mints in memory and a clock that stands still."""

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from broker.cache.remembered import Cached
from broker.errors import (
    MissingPart,
    SecretMissingError,
    StateUnavailableError,
)
from broker.identity import VerifiedChain
from broker.leases.held import Asker
from broker.leases.leases import Leases
from broker.leases.record import Holder, LeaseRecord
from broker.leases.settings import LeaseSettings
from broker.leases.standing import Grounds
from broker.limits.fair_queue import FairQueue, FairQueues
from broker.policy.decision import Allow, Context
from broker.providers.base import Extension, Grip, Parent
from broker.reference import Source, parse
from broker.secret import Encoding, Lease, Reading, SecretDocument, SecretValue
from tests.fakes import START, FakeClock, FakePolicy, FakeTrail, fake_metrics, fake_peer
from tests.vaults import Seen

USER, PASSWORD = parse("vault:database/creds/app#username"), parse("vault:database/creds/app#password")
SOURCE = USER.source
HOUR = 3600.0


@dataclass
class FakeMint:
    """A back end whose leases live in a dictionary: what it says is settled by its attributes."""

    clock: FakeClock | Seen
    seconds: float = HOUR
    max_seconds: float = 24 * HOUR
    renewable: bool = True
    has_parent: bool = True
    leases: dict[str, float] = field(default_factory=dict)
    parents: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    fails: dict[str, Exception] = field(default_factory=dict)
    gate: asyncio.Event | None = None
    not_after: float | None = None
    found: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda _call: None

    async def prepare(self, source: Source) -> Parent:
        self._call("prepare")
        if not self.has_parent:
            return Parent()
        accessor = f"parent-{len(self.calls)}"
        self.parents.add(accessor)
        return Parent(accessor=accessor, key=SecretValue(b"key", encoding=Encoding.TEXT))

    async def mint(self, source: Source, parent: Parent) -> Reading:
        self._call("mint")
        if self.gate is not None:
            await self.gate.wait()
        number = self.calls.count("mint")
        document = SecretDocument.of_fields({"username": f"user-{number}", "password": f"pass-{number}"}, size=8)
        if self.seconds == 0:
            return Reading(document, not_after=self.not_after)
        handle = f"database/creds/app/{number}"
        self.leases[handle] = self.clock.now() + self.max_seconds
        return Reading(document, lease=Lease(handle=handle, seconds=self.seconds, renewable=self.renewable))

    async def left_behind(self, source: Source, *, created: float, known: AbstractSet[str]) -> list[str]:
        return [handle for handle in self.found if handle in self.leases and handle not in known]

    async def renew(self, grip: Grip, *, seconds: float) -> Extension:
        self._call("renew")
        if grip.handle not in self.leases:
            raise SecretMissingError("the lease is gone", part=MissingPart.DELETED)
        left = self.leases[grip.handle] - self.clock.now()
        return Extension(min(seconds, left), capped=left < seconds)

    async def look_up(self, grip: Grip) -> float:
        self._call("look_up")
        if grip.handle not in self.leases:
            raise SecretMissingError("the lease is gone", part=MissingPart.DELETED)
        return self.leases[grip.handle] - self.clock.now()

    async def revoke(self, grip: Grip) -> None:
        self._call("revoke")
        self.leases.pop(grip.handle, None)
        self.parents.discard(grip.parent)

    def _call(self, name: str) -> None:
        self.before(name)
        self.calls.append(name)
        if name in self.fails:
            raise self.fails[name]


class MemoryState:
    """A state store whose rows are there as soon as a call returns."""

    def __init__(self) -> None:
        self.rows: dict[str, LeaseRecord] = {}
        self.given: dict[tuple[str, str], Holder] = {}
        self.broken = False

    async def leases(self) -> list[LeaseRecord]:
        return list(self.rows.values())

    async def holders(self) -> list[Holder]:
        return list(self.given.values())

    async def keep_leases(self, records: Sequence[LeaseRecord], holders: Sequence[Holder] = ()) -> None:
        self._check()
        self.rows |= {record.id: record for record in records}
        self.given |= {(each.lease, each.certificate): each for each in holders}

    async def forget_holders(self, *, ended_before: float) -> None:
        self._check()
        self.given = {key: each for key, each in self.given.items() if each.ends >= ended_before}

    async def forget_lease(self, lease_id: str) -> None:
        self._check()
        self.rows.pop(lease_id, None)
        self.given = {key: each for key, each in self.given.items() if key[0] != lease_id}

    def _check(self) -> None:
        if self.broken:
            raise StateUnavailableError("the state database can't be used (SQLITE_FULL)")


@dataclass(frozen=True)
class FakeTrust:
    """Whose certificates count."""

    revoked: frozenset[str] = frozenset()
    anchors: frozenset[str] = frozenset({"authority"})


class Desk:
    """One broker's leases; `restart` makes the next process out of what is durable."""

    def __init__(self, clock: FakeClock | Seen | None = None) -> None:
        self.clock = clock or FakeClock()
        self.mint = FakeMint(self.clock)
        self.state = MemoryState()
        self.policy = FakePolicy(allowed={"vault:": Allow("r", 300.0, 3600.0)})
        self.held = self.policy
        self.trust = FakeTrust()
        self.trail = FakeTrail()
        self.metrics = fake_metrics()
        self.settings = LeaseSettings()
        self.queue = FairQueue(at_once=32, max_waiting=10_000, max_waiting_each=1024)
        self.leases = self.restart()

    @property
    def current(self) -> FakePolicy:
        return self.held

    def restart(self) -> Leases:
        self.leases = Leases(
            store=self.state,
            providers={"vault": self.mint},
            grounds=Grounds(policy=self, trust=self),
            trail=self.trail,
            metrics=self.metrics,
            clock=self.clock,
            queues=FairQueues({"vault": self.queue}),
            settings=self.settings,
        )
        return self.leases

    async def get(
        self, name: str = "spiffe://prod.example/shipper", source: Source = SOURCE, *, certificate: str = "first"
    ) -> Cached:
        return await self.leases.get(source, asker(name, certificate), [USER, PASSWORD], fresh_for=300.0)

    async def work(self, seconds: float = 0.0) -> None:
        """Let time pass, and everything happen that is due by then."""
        self.clock.advance(seconds)
        await self.leases.upkeep.heed()
        self.leases.upkeep.step()
        await self.leases.upkeep.idle()

    def keep(self) -> "asyncio.Task[None]":
        """Let what is due be done in real time."""
        return asyncio.create_task(self.leases.keep())

    def count(self, event: str) -> float:
        return (
            self.metrics.registry.get_sample_value("broker_lease_events_total", {"provider": "vault", "event": event})
            or 0.0
        )


def asker(name: str = "spiffe://prod.example/shipper", certificate: str = "first", anchor: str = "authority") -> Asker:
    chain = VerifiedChain(certificates=frozenset({certificate, f"issuer of {anchor}"}), anchor=anchor)
    return Asker(replace(fake_peer(name), chain=chain), Context(address=ip_address("127.0.0.1"), now=START))


def values(cached: Cached) -> tuple[bytes, bytes]:
    document = cached.reading.document
    return document.select(("username",)).reveal(), document.select(("password",)).reveal()
