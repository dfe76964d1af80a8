"""Events that wait for a commit, each with the caller who may not go on before it is durable."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from broker.audit.event import AuditEvent
from broker.errors import AuditUnavailableError
from broker.series.audit import AuditSeries

MAX_COMMIT: Final = 256
CLOSED: Final = "the audit trail is closed; the broker is stopping"


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event with its time in milliseconds; `done` lets its caller go on."""

    event: AuditEvent
    time_ms: int
    done: asyncio.Future[None]


class Backlog:
    """Keep events in order, as many as may wait, and let their callers go on together.

    Attributes:
        closed: Whether nothing more is taken in; what waits is still to be written.
        refused: How many events were refused since this was last set to 0.

    """

    def __init__(self, *, most: int, metrics: AuditSeries) -> None:
        """Let at most `most` events wait."""
        self._most = most
        self._metrics = metrics
        self._waiting: deque[Waiting] = deque()
        self._news = asyncio.Event()
        self.closed = False
        self.refused = 0

    def __len__(self) -> int:
        """Return how many events wait."""
        return len(self._waiting)

    async def add(self, event: AuditEvent, time_ms: int) -> None:
        """Return when `event` is durable.

        Raises:
            AuditUnavailableError: It is not known to be, or nothing more is taken in.

        """
        if self.closed:
            raise self.refusal(CLOSED)
        if len(self._waiting) >= self._most:
            message = "too many events wait for the audit trail"
            raise self.refusal(message)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(event, time_ms, done))
        self._news.set()
        await done

    def refusal(self, reason: str) -> AuditUnavailableError:
        """Count a refused event, and return the error for its caller."""
        self.refused += 1
        return AuditUnavailableError(reason)

    def take(self) -> list[Waiting]:
        """Return those that may share the next commit, the oldest first; they wait here no more."""
        batch = [self._waiting.popleft() for _ in range(min(MAX_COMMIT, len(self._waiting)))]
        self._metrics.audit_pending(len(self._waiting))
        return batch

    async def wait(self, seconds: float) -> None:
        """Wait for an event, for the end, or for `seconds`."""
        self._news.clear()
        if self._waiting or self.closed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._news.wait()

    def settle(self, batch: Sequence[Waiting], reason: str | None) -> None:
        """Let the callers of `batch` go on, refused if there is a `reason`; those that were cancelled are gone."""
        for waiting in batch:
            if waiting.done.done():
                continue
            if reason is None:
                waiting.done.set_result(None)
            else:
                waiting.done.set_exception(self.refusal(reason))

    def refuse_all(self, reason: str) -> None:
        """Let every caller who waits go on without a record."""
        batch = list(self._waiting)
        self._waiting.clear()
        self._metrics.audit_pending(0)
        self.settle(batch, reason)

    def close(self) -> None:
        """Take nothing more in."""
        self.closed = True
        self._news.set()
