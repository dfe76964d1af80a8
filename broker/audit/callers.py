"""Those who may not go on before their records are durable, in the order of the chain."""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

from broker.errors import AuditUnavailableError
from broker.series.audit import AuditSeries

CLOSED: Final = "the audit trail is closed; the broker is stopping"


class Callers:
    """Keep callers in order, as many as may wait, and let them go on together.

    Attributes:
        closed: Whether nobody more is taken in; what waits is still to be written.
        refused: How many events were refused since this was last set to 0.

    """

    def __init__(self, *, most: int, metrics: AuditSeries) -> None:
        """Let at most `most` callers wait."""
        self._most = most
        self._metrics = metrics
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._news = asyncio.Event()
        self.closed = False
        self.refused = 0

    def __len__(self) -> int:
        """Return how many callers wait."""
        return len(self._waiting)

    def require_room(self) -> None:
        """Return when one more caller may wait.

        Raises:
            AuditUnavailableError: Nobody more is taken in, or too many wait.

        """
        if self.closed:
            raise self.refusal(CLOSED)
        if len(self._waiting) >= self._most:
            message = "too many events wait for the audit trail"
            raise self.refusal(message)

    async def wait_for_record(self) -> None:
        """Return when the record that was chained last is durable.

        Raises:
            AuditUnavailableError: It is not known to be.

        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._news.set()
        await done

    def refusal(self, reason: str) -> AuditUnavailableError:
        """Count a refused event, and return the error for its caller."""
        self.refused += 1
        return AuditUnavailableError(reason)

    async def wait_for_news(self, seconds: float) -> None:
        """Wait for a caller, for the end, or for `seconds`."""
        self._news.clear()
        if self._waiting or self.closed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._news.wait()

    def let_go(self, count: int) -> None:
        """Let those go on who have waited longest; those of them that were cancelled are gone already."""
        for _ in range(count):
            done = self._waiting.popleft()
            if not done.done():
                done.set_result(None)
        self._metrics.audit_pending(len(self._waiting))

    def refuse_all(self, reason: str) -> None:
        """Let everybody go on without a record."""
        while self._waiting:
            done = self._waiting.popleft()
            if not done.done():
                done.set_exception(self.refusal(reason))
        self._metrics.audit_pending(0)

    def close(self) -> None:
        """Take nobody more in."""
        self.closed = True
        self._news.set()
