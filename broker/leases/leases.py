"""The leases of one broker: what the rest of it sees."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from broker.audit.event import EventSink
from broker.cache.remembered import Cached
from broker.clock import Clock
from broker.errors import LeaseUnknownError
from broker.identity import PeerIdentity
from broker.leases.book import LeaseBook
from broker.leases.events import LeaseEvents
from broker.leases.held import Asker
from broker.leases.minting import Minting
from broker.leases.record import LeaseReason, LeaseRecord, LeaseState, LeaseStore
from broker.leases.settings import LeaseSettings
from broker.leases.standing import Grounds, Standing
from broker.leases.upkeep import Revocation, Upkeep, Withdrawal
from broker.limits.fair_queue import FairQueues
from broker.providers.base import Leasing
from broker.reference import Reference, Source
from broker.series.upstream import LeaseSeries

_SHOWN: Final = frozenset({LeaseState.LIVE, LeaseState.SUPERSEDED, LeaseState.REVOKING})


class Leases:
    """Mint for those who ask, look after what was minted, and leave nothing behind."""

    def __init__(
        self,
        *,
        store: LeaseStore,
        providers: Mapping[str, Leasing],
        grounds: Grounds,
        trail: EventSink,
        metrics: LeaseSeries,
        clock: Clock,
        queues: FairQueues,
        settings: LeaseSettings,
    ) -> None:
        """Keep the collaborators; `open` comes first."""
        self._settings = settings
        self._book = LeaseBook(
            store=store, events=LeaseEvents(trail=trail, metrics=metrics), clock=clock, settings=settings
        )
        standing = Standing(book=self._book, grounds=grounds, clock=clock)
        self._upkeep = Upkeep(book=self._book, providers=providers, standing=standing, clock=clock, queues=queues)
        self._minting = Minting(
            book=self._book,
            providers=providers,
            clock=clock,
            queues=queues,
            standing=standing,
            doubt=self._upkeep.look_at,
            settings=settings,
        )

    async def open(self) -> None:
        """Take over what an earlier process has left. Raises: StateUnavailableError."""
        await self._book.open()

    async def keep(self) -> None:
        """Renew and revoke, for ever."""
        await self._upkeep.run()

    @property
    def upkeep(self) -> Upkeep:
        """Return what does the work of `keep`."""
        return self._upkeep

    async def lookup(
        self, source: Source, asker: Asker, references: Iterable[Reference], *, fresh_for: float
    ) -> Cached | None:
        """Return the answer from a lease that lives, else None; policy was asked before.

        Raises:
            SourceUnavailableError: It was withdrawn meanwhile.
            StateUnavailableError: That this certificate gets it can't be made durable.

        """
        return await self._minting.lookup(source, asker, references, fresh_for=fresh_for)

    def watched(self, source: Source, asker: Asker, references: Iterable[Reference], *, fresh_for: float) -> str | None:
        """Return the name of the lease of an asker who watches, as `Minting.watched`; policy was asked before."""
        return self._minting.watched(source, asker, references, fresh_for=fresh_for)

    async def get(self, source: Source, asker: Asker, references: Iterable[Reference], *, fresh_for: float) -> Cached:
        """Return the answer from a lease that lives, or from a new one; policy was asked before.

        Raises:
            FetchError: There is none, and none can be made.
            StateUnavailableError: What is minted can't be made durable.
            AuditUnavailableError: It can't be put on record.

        """
        return await self._minting.get(source, asker, references, fresh_for=fresh_for)

    def of(self, peer: PeerIdentity) -> Sequence[LeaseRecord]:
        """Return the leases of `peer`, the oldest first."""
        found = (held.record for held in self._book.of(peer.kind, peer.name))
        return sorted((record for record in found if record.state in _SHOWN), key=lambda record: record.created)

    async def revoke(self, lease_id: str, peer: PeerIdentity) -> Revocation:
        """Revoke a lease of `peer`, now or behind.

        Raises:
            LeaseUnknownError: `peer` has no such lease.

        """
        held = self._book.get(lease_id)
        if held is None or not held.record.belongs_to(peer) or held.record.state not in _SHOWN:
            message = "you have no such lease; it may have ended"
            raise LeaseUnknownError(message)
        return await self._upkeep.revoke_now(held, LeaseReason.ASKED)

    async def take_back(self, concerns: Callable[[LeaseRecord], bool], /, *, seconds: float) -> Withdrawal:
        """Hand out none of the leases that `concerns` names, and revoke them; wait at most `seconds` for that."""
        named = [held for held in self._book.all() if held.record.state in _SHOWN and concerns(held.record)]
        return await self._upkeep.take_back(named, LeaseReason.ORDERED, seconds=seconds)

    async def aclose(self) -> None:
        """Wait for what is being minted, and revoke everything if the settings say so."""
        loop, seconds = asyncio.get_running_loop(), self._settings.stop_seconds
        until = loop.time() + seconds
        # What hangs in the making leaves time for what can be revoked.
        await self._minting.aclose(seconds=seconds / 2)
        if self._settings.revoke_at_stop:
            await self._upkeep.revoke_all(seconds=until - loop.time())
        await self._upkeep.aclose()
