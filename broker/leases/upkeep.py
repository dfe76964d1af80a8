"""When something is done about leases, with nobody asking or at once: what falls due, and what may stand no more."""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from broker.clock import Clock
from broker.errors import FetchError
from broker.leases.book import LeaseBook
from broker.leases.chores import Chores
from broker.leases.held import Held
from broker.leases.record import LeaseReason, LeaseRecord, LeaseState
from broker.leases.standing import Standing
from broker.limits.fair_queue import FairQueues, QueueFullError
from broker.logs import EventLogger, error_fields
from broker.providers.base import Leasing
from broker.trace_context import untraced

_LOG: Final = EventLogger("broker.leases")
# Enough to use the back end's budget up when thousands fall due together, and few enough to leave readers their turn.
_AT_ONCE: Final = 16
# Of these: what does not answer when something is revoked in it takes no renewal its turn.
_REVOKED_AT_ONCE: Final = 12
_STEP_SECONDS: Final = 0.5
_BUG_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """How far a revocation came: what is not gone is tried again, and `failure` says why, if it was tried at all."""

    gone: bool
    failure: FetchError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """How far the revocation of many came: how many there were, and what is left of them, which is tried again."""

    leases: int
    left: tuple[tuple[LeaseRecord, FetchError | None], ...]


class Upkeep:
    """Do what is due to the leases of one book."""

    def __init__(
        self,
        *,
        book: LeaseBook,
        providers: Mapping[str, Leasing],
        standing: Standing,
        clock: Clock,
        queues: FairQueues,
    ) -> None:
        """Keep the collaborators; what somebody asks for at once waits for its turn in `queues`."""
        self._queues = queues
        self._book = book
        self._chores = Chores(book=book, providers=providers, clock=clock)
        self._standing = standing
        self._clock = clock
        self._work: dict[str, asyncio.Task[None]] = {}
        self._revocations: deque[Held] = deque()
        self._revoking: set[str] = set()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Work for ever."""
        while True:
            self._wake.clear()
            try:
                await self.heed()
            finally:
                # Whatever keeps the questions from being asked keeps nothing else from being done.
                self.step()
            try:
                async with asyncio.timeout(_STEP_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def heed(self) -> None:
        """Withdraw what may not stand any more, and let go of what says nothing about that any more."""
        await self._standing.heed()
        await self._book.let_go_of_holders()

    def step(self) -> None:
        """Begin what is due, as much as may be under way at once."""
        if len(self._work) < _AT_ONCE:
            for held in self._book.due():
                if held.record.state is LeaseState.REVOKING:
                    self._revocations.append(held)
                elif self._begin_unless_busy(held) and len(self._work) >= _AT_ONCE:
                    return
        while self._revocations and len(self._work) < _AT_ONCE and len(self._revoking) < _REVOKED_AT_ONCE:
            held = self._revocations.popleft()
            if self._book.get(held.record.id) is held:
                self._begin_unless_busy(held)

    def look_at(self, held: Held) -> None:
        """Find out whether `held` still lives, unless the work at hand is enough: whoever asks next doubts it again."""
        if len(self._work) < _AT_ONCE and held.record.id not in self._work:
            # However that ends: nobody doubts it again before the time has passed once more.
            held.proved = self._clock.monotonic()
            self._watch(held, asyncio.create_task(self._chores.look_up(held), context=untraced()))

    async def idle(self) -> None:
        """Return when nothing is under way."""
        while self._work:
            await asyncio.wait(list(self._work.values()))
            await asyncio.sleep(0)

    async def revoke_now(self, held: Held, reason: LeaseReason) -> Revocation:
        """Hand out `held` no longer, and try to revoke it."""
        await self._book.withdraw(held, reason)
        running = self._work.get(held.record.id)
        if running is not None:
            await asyncio.wait({running})
        # Without a turn it is left to those that are done behind.
        with suppress(QueueFullError):
            async with self._queues.turn(held.record.provider, held.record.identity):
                if self._book.get(held.record.id) is held:
                    await asyncio.wait({self._work.get(held.record.id) or self._begin(held)})
        return Revocation(gone=self._book.get(held.record.id) is None, failure=held.failure)

    async def revoke_all(self, *, seconds: float) -> None:
        """Revoke every lease that the back end can revoke; what is left after `seconds` is for the next start."""
        leases = [held for held in self._book.all() if held.record.can_be_revoked]
        done = await self.take_back(leases, LeaseReason.SHUTDOWN, seconds=seconds)
        if done.left:
            _LOG.warning("leases_not_revoked", count=len(done.left), effect="they are revoked after the next start")

    async def take_back(self, leases: Sequence[Held], reason: LeaseReason, *, seconds: float) -> Withdrawal:
        """Hand out none of `leases` any longer, and try once to revoke each, for at most `seconds`."""
        await self._book.withdraw_all(leases, reason)
        # What has failed before is tried again now, too.
        tried = {held.record.id: held.attempts for held in leases}
        waiting = deque(leases)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while waiting:
                    held = waiting[0]
                    if self._book.get(held.record.id) is not held or held.attempts != tried[held.record.id]:
                        waiting.popleft()
                        continue
                    self.step()
                    under_way = list(self._work.values()) or [asyncio.create_task(asyncio.sleep(0.01))]
                    # One that hangs holds up no other.
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        left = tuple((held.record, held.failure) for held in self._left(leases))
        return Withdrawal(leases=len(leases), left=left)

    def _left(self, leases: Sequence[Held]) -> Iterator[Held]:
        return (held for held in leases if self._book.get(held.record.id) is held)

    async def aclose(self) -> None:
        """End what is under way."""
        tasks = list(self._work.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin_unless_busy(self, held: Held) -> bool:
        if held.record.id in self._work:
            self._book.remind(held, self._clock.monotonic() + 1.0)
            return False
        _ = self._begin(held)
        return True

    def _begin(self, held: Held) -> asyncio.Task[None]:
        if held.record.state is LeaseState.REVOKING:
            self._revoking.add(held.record.id)
        task = asyncio.create_task(self._chores.do(held), context=untraced())
        self._watch(held, task)
        return task

    def _watch(self, held: Held, task: asyncio.Task[None]) -> None:
        self._work[held.record.id] = task
        task.add_done_callback(lambda task: self._done(held, task))

    def _done(self, held: Held, task: asyncio.Task[None]) -> None:
        self._work.pop(held.record.id, None)
        self._revoking.discard(held.record.id)
        self._wake.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _LOG.error("bug", **error_fields(error))
            self._book.remind(held, self._clock.monotonic() + _BUG_SECONDS)
