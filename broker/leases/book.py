"""Every lease that the broker answers for: in memory, in the state store, in the trail and in the metrics."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from broker.clock import Clock
from broker.errors import AuditUnavailableError, StateUnavailableError
from broker.identity import IdentityKind, PeerIdentity
from broker.leases.agenda import Agenda
from broker.leases.events import LeaseEvents
from broker.leases.held import Held, LeaseKey
from broker.leases.record import Holder, LeaseReason, LeaseRecord, LeaseState, LeaseStore, new_lease_id
from broker.leases.settings import LeaseSettings
from broker.logs import EventLogger

_LOG: Final = EventLogger("broker.leases")
# A list names what it revoked for a while after that has ended, and nobody revokes it later.
_HOLDER_SECONDS: Final = 7 * 86_400.0
_LET_GO_SECONDS: Final = 3600.0


class LeaseBook:
    """Keep the leases and the moments at which something has to happen to them.

    Attributes:
        events: Where what happens to them is told.

    """

    def __init__(self, *, store: LeaseStore, events: LeaseEvents, clock: Clock, settings: LeaseSettings) -> None:
        """Keep the collaborators; `open` reads what an earlier process has left."""
        self._store = store
        self.events = events
        self._clock = clock
        self._settings = settings
        self._held: dict[str, Held] = {}
        self._live: dict[LeaseKey, Held] = {}
        self._by_identity: dict[tuple[IdentityKind, str], dict[str, Held]] = {}
        self._agenda = Agenda(clock=clock)
        self._let_go_at = clock.monotonic() + _LET_GO_SECONDS

    async def open(self) -> None:
        """Take over what an earlier process has left: its values are gone, and its leases are not.

        Raises:
            StateUnavailableError: The state can't be read or written.

        """
        holders: dict[str, list[Holder]] = {}
        for holder in await self._store.holders():
            holders.setdefault(holder.lease, []).append(holder)
        for record in await self._store.leases():
            held = Held(record=record)
            held.is_given(holders.get(record.id, ()))
            self._add(held)
            held.record = self._after_restart(record)
            self.remind_by_record(held)
        await self._store.keep_leases([held.record for held in self._held.values()])
        self._count()

    def _after_restart(self, record: LeaseRecord) -> LeaseRecord:
        now = self._clock.now()
        match record.state:
            case LeaseState.MINTING:
                return replace(record, state=LeaseState.REVOKING, reason=LeaseReason.ABANDONED, due=now)
            case LeaseState.LIVE:
                return replace(record, state=LeaseState.SUPERSEDED, reason=LeaseReason.RESTART)
            case LeaseState.SUPERSEDED if record.due is not None:
                # A clock that was ahead of this one puts nothing off.
                return replace(record, due=min(record.due, now + self._settings.overlap_seconds))
            case LeaseState.REVOKING:
                return replace(record, due=now)
            case _:
                return record

    def live(self, key: LeaseKey) -> Held | None:
        """Return the lease that is handed out for `key`."""
        return self._live.get(key)

    def get(self, lease_id: str) -> Held | None:
        """Return the lease of that id."""
        return self._held.get(lease_id)

    def all(self) -> tuple[Held, ...]:
        """Return every lease that is not forgotten."""
        return tuple(self._held.values())

    def of(self, kind: IdentityKind, name: str) -> tuple[Held, ...]:
        """Return the leases of one identity."""
        return tuple(self._by_identity.get((kind, name), {}).values())

    async def begin(self, held: Held, peer: PeerIdentity) -> None:
        """Make durable that something may be minted for `peer` from now on. Raises: StateUnavailableError."""
        holders = held.new_holders(peer)
        await self._store.keep_leases([held.record], holders)
        held.is_given(holders)
        self._add(held)

    async def give(self, held: Held, peer: PeerIdentity) -> bool:
        """Make durable that `peer` gets `held`, and return whether its certificate gets it for the first time.

        Raises:
            StateUnavailableError: It can't be made durable, so that `peer` may not get it.

        """
        holders = held.new_holders(peer)
        if holders:
            await self._store.keep_leases([], holders)
            held.is_given(holders)
        return bool(holders)

    async def let_go_of_holders(self) -> None:
        """Forget certificates that ended long ago, once an hour: a lease may be renewed for years."""
        if self._clock.monotonic() < self._let_go_at:
            return
        self._let_go_at = self._clock.monotonic() + _LET_GO_SECONDS
        ended_before = self._clock.now() - _HOLDER_SECONDS
        for held in self._held.values():
            held.let_go_of_holders(ended_before=ended_before)
        try:
            await self._store.forget_holders(ended_before=ended_before)
        except StateUnavailableError as error:
            _LOG.warning("holders_not_forgotten", reason=error.detail, effect="it is tried again in an hour")

    async def adopt(self, held: Held, key: LeaseKey) -> None:
        """Hand out `held` from now on, and let what it replaces end after the overlap.

        Raises:
            StateUnavailableError: It can't be made durable, and is not handed out.
            AuditUnavailableError: It is not on record; it is handed out when that works again.

        """
        replaced = [
            other
            for other in self.of(key.kind, key.name)
            if other is not held
            and other.record.due is None
            and other.record.state in {LeaseState.LIVE, LeaseState.SUPERSEDED}
            and other.record.source == held.record.source
        ]
        records = [
            replace(
                other.record,
                state=LeaseState.SUPERSEDED,
                reason=LeaseReason.REPLACED,
                due=self._end_of_overlap(other) if other.record.can_be_revoked else None,
            )
            for other in replaced
        ]
        await self._store.keep_leases([held.record, *records])
        for other, record in zip(replaced, records, strict=True):
            # What was withdrawn during the write is revoked now, not after the overlap.
            if other.record.state is not LeaseState.REVOKING:
                other.record, other.reading, other.answered = record, None, None
                self.remind_by_record(other)
        if held.record.state is LeaseState.LIVE:
            self._live[key] = held
        self._count()
        await self.events.tell(held.record, "minted")

    def _end_of_overlap(self, held: Held) -> float:
        now = self._clock.now()
        # What was minted by this process ends by the steady clock, whatever has become of the other one.
        left = held.record.expires - now if held.key is None else held.ends - self._clock.monotonic()
        return now + min(self._settings.overlap_seconds, left)

    async def announce(self, held: Held, *, expires: float) -> None:
        """Keep the later end that `held` is about to be given, so that no crash leaves a record that ends before it."""
        try:
            await self._store.keep_leases([replace(held.record, expires=max(expires, held.record.expires))])
        except StateUnavailableError as error:
            # It is renewed all the same: whoever holds it needs it, and it ends by itself.
            _LOG.error("lease_not_kept", lease=held.record.id, reason=error.detail)

    async def recognise(self, held: Held, handles: Sequence[str]) -> None:
        """Take `handles` for what mints such as that of `held` have made: one is its, the others are withdrawn as well.

        Raises:
            StateUnavailableError: It can't be made durable.

        """
        first, *more = [replace(held.record, handle=handle) for handle in handles]
        others = [Held(record=replace(record, id=new_lease_id(), parent="")) for record in more]
        await self._store.keep_leases([first, *(other.record for other in others)])
        held.record = first
        for other in others:
            self._add(other)
            self.remind_by_record(other)

    async def extend(self, held: Held) -> None:
        """Keep a later end of `held`; that it can't be made durable costs nothing but the order of a clean-up."""
        self.events.count(held.record, "renewed")
        try:
            await self._store.keep_leases([held.record])
        except StateUnavailableError as error:
            _LOG.error("lease_not_kept", lease=held.record.id, reason=error.detail)

    async def withdraw(self, held: Held, reason: LeaseReason, *, seconds: float = 0.0) -> None:
        """Hand out `held` no longer; it is to be revoked in `seconds`, and until that succeeds."""
        await self.withdraw_all([held], reason, seconds=seconds)

    async def withdraw_all(self, leases: Sequence[Held], reason: LeaseReason, *, seconds: float = 0.0) -> None:
        """As `withdraw`, for many at once; what is forgotten already stays so."""
        leases = [held for held in leases if self._held.get(held.record.id) is held]
        due = self._clock.now() + seconds
        for held in leases:
            self._leave(held)
            if held.record.state is not LeaseState.REVOKING:
                why = LeaseReason.ABANDONED if held.record.state is LeaseState.MINTING else reason
                held.record = replace(held.record, state=LeaseState.REVOKING, reason=why, due=due)
                held.attempts = 0
            else:
                held.record = replace(held.record, due=due if held.record.due is None else min(held.record.due, due))
            self.remind_by_record(held)
        self._count()
        await self._keep_withdrawn(leases)

    async def keep_withdrawn(self, held: Held) -> None:
        """Make durable that `held` is withdrawn, where that failed before."""
        if held.not_kept:
            await self._keep_withdrawn([held])

    async def _keep_withdrawn(self, leases: Sequence[Held]) -> None:
        try:
            await self._store.keep_leases([held.record for held in leases])
        except StateUnavailableError as error:
            # They are revoked all the same; only a crash before that would bring them back.
            for held in leases:
                held.not_kept = True
                _LOG.error("lease_not_kept", lease=held.record.id, reason=error.detail)
        else:
            for held in leases:
                held.not_kept = False

    async def forget(self, held: Held, event: str = "") -> None:
        """Let go of `held`, which is gone at the back end; `event` tells how, when that is worth a record."""
        self._leave(held)
        self._remove(held)
        self._count()
        try:
            await self._store.forget_lease(held.record.id)
            if event:
                await self.events.tell(held.record, event)
        except (StateUnavailableError, AuditUnavailableError) as error:
            _LOG.error("lease_not_kept", lease=held.record.id, reason=error.detail)

    def remind(self, held: Held, moment: float) -> None:
        """Let `due` return `held` from the steady time `moment` on, and at no other."""
        self._agenda.remind(held, moment)

    def remind_by_record(self, held: Held) -> None:
        """As `remind`, at the moment that the record itself names."""
        record = held.record
        wall = record.expires if record.due is None else record.due
        self.remind(held, self._clock.monotonic() + wall - self._clock.now())

    def due(self) -> Iterator[Held]:
        """Yield each lease whose moment has come."""
        return (held for held in self._agenda.due() if self._held.get(held.record.id) is held)

    def _add(self, held: Held) -> None:
        record = held.record
        self._held[record.id] = held
        self._by_identity.setdefault((record.identity_kind, record.identity), {})[record.id] = held

    def _remove(self, held: Held) -> None:
        record = held.record
        self._held.pop(record.id, None)
        theirs = self._by_identity.get((record.identity_kind, record.identity), {})
        theirs.pop(record.id, None)
        if not theirs:
            self._by_identity.pop((record.identity_kind, record.identity), None)

    def _leave(self, held: Held) -> None:
        if held.key is not None and self._live.get(held.key) is held:
            del self._live[held.key]
        held.reading = held.answered = None

    def _count(self) -> None:
        self.events.leases_active(len(self._live))
