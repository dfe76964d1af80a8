"""Turns for reads of one back end: so many at once, the others in lanes by identity that are served in rotation."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from broker.errors import SourceUnavailableError
from broker.limits.lanes import Lanes


class QueueFullError(SourceUnavailableError):
    """Too many reads wait already, so this one was not begun."""

    was_asked = False


class FairQueue:
    """Give turns. A lane with many waiting gets no more of them than one with few."""

    def __init__(self, *, at_once: int, max_waiting: int, max_waiting_each: int) -> None:
        """Let `at_once` run together, `max_waiting` wait in all, and `max_waiting_each` of them in one lane."""
        self._free = at_once
        self._max_waiting = max_waiting
        self._max_waiting_each = max_waiting_each
        self._lanes: Lanes[asyncio.Future[None]] = Lanes()

    @asynccontextmanager
    async def turn(self, lane: Hashable) -> AsyncIterator[None]:
        """Wait for a turn in `lane`, and hold it.

        Raises:
            QueueFullError: Too many wait already, in this lane or in all.

        """
        if self._free:
            self._free -= 1
        else:
            await self._wait(lane)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, lane: Hashable) -> None:
        if len(self._lanes) >= self._max_waiting or self._lanes.waiting(lane) >= self._max_waiting_each:
            message = "too many reads wait for this source already; ask again in a moment"
            raise QueueFullError(message, retry_after=1.0)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lanes.add(lane, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # The turn came in the same moment as the end; somebody else may have it.
                self._pass_on()
            else:
                self._lanes.remove(lane, turn)
            raise

    def _pass_on(self) -> None:
        while self._lanes:
            turn = self._lanes.take(self._lanes.next())
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class FairQueues:
    """The queue of each back end, for everything that costs it something: reads, credentials, revocations."""

    def __init__(self, queues: Mapping[str, FairQueue]) -> None:
        """Keep the queues, by the scheme of the provider; where there is none, nobody waits."""
        self._queues = queues

    def turn(self, scheme: str, lane: Hashable) -> AbstractAsyncContextManager[None]:
        """Wait for a turn at a back end, and hold it. Raises: QueueFullError."""
        queue = self._queues.get(scheme)
        return nullcontext() if queue is None else queue.turn(lane)
