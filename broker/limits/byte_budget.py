"""Bytes that requests may have in memory at once: taken before they are there, and shared fairly between lanes."""

import asyncio
import sys
from collections import Counter
from collections.abc import Hashable
from typing import Final, NamedTuple, Protocol

from broker.errors import InFlightLimitError
from broker.limits.lanes import Lanes

# What the buffers of one connection take without being asked. So much is bounded by the number of connections, and
# what is no larger needs no permit: the answers of nearly everybody.
UNCOUNTED: Final = 64 * 1024
_RETRY_SECONDS: Final = 1.0


class PartSeries(Protocol):
    """Shows one budget."""

    def used(self, size: int) -> None:
        """State how many bytes are taken."""
        ...

    def waited(self) -> None:
        """Count somebody who had to wait."""
        ...

    def refused(self) -> None:
        """Count somebody who got nothing."""
        ...


class Permit:
    """Bytes that were taken, given back exactly once."""

    __slots__ = ("_budget", "_lane", "size")

    def __init__(self, budget: "ByteBudget", lane: Hashable, size: int) -> None:
        """Hold `size` bytes of `budget` for `lane`."""
        self._budget: ByteBudget | None = budget
        self._lane = lane
        self.size = size

    def give_back(self) -> None:
        """Let others have them; a second call does nothing."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget._give_back(self._lane, self.size)  # noqa: SLF001  A permit is the budget's other half.


class _Waiting(NamedTuple):
    size: int
    permit: "asyncio.Future[Permit]"


class ByteBudget:
    """Give permits for bytes.

    Who holds a permit waits for no other one of the same budget, so nobody waits for ever.

    Attributes:
        most: Bytes that one lane may hold, and so the largest permit.

    """

    def __init__(self, *, limit: int, most: int, series: PartSeries | None = None) -> None:
        """Give out `limit` bytes at once, `most` of them to one lane."""
        self.most = most
        self._limit = limit
        self._series = series
        self._used = 0
        self._held: Counter[Hashable] = Counter()
        self._line: Lanes[_Waiting] = Lanes()

    @classmethod
    def unlimited(cls) -> "ByteBudget":
        """Return one that refuses nothing."""
        return cls(limit=sys.maxsize, most=sys.maxsize)

    @property
    def used(self) -> int:
        """Return how many bytes are taken."""
        return self._used

    @property
    def waiting(self) -> int:
        """Return how many wait."""
        return len(self._line)

    def take_at_once(self, lane: Hashable, size: int) -> Permit | None:
        """Return a permit for `size` bytes, None when there is none now."""
        if not self._fits(lane, size) or self._is_behind(lane):
            return None
        return self._grant(lane, size)

    def take_or_refuse(self, lane: Hashable, size: int) -> Permit:
        """Return a permit for `size` bytes without waiting.

        Raises:
            InFlightLimitError: There is none now.

        """
        return self.take_at_once(lane, size) or self._refuse()

    async def take(self, lane: Hashable, size: int, *, seconds: float) -> Permit:
        """Return a permit for `size` bytes, at most `most`, when it is this one's turn.

        Raises:
            InFlightLimitError: That took longer than `seconds`.

        """
        permit = self.take_at_once(lane, size)
        if permit is not None:
            return permit
        waiting = _Waiting(size, asyncio.get_running_loop().create_future())
        self._line.add(lane, waiting)
        if self._series is not None:
            self._series.waited()
        try:
            async with asyncio.timeout(seconds):
                return await self._turn(lane, waiting)
        except TimeoutError:
            return self._refuse()

    async def _turn(self, lane: Hashable, waiting: _Waiting) -> Permit:
        try:
            return await waiting.permit
        except asyncio.CancelledError:
            if waiting.permit.done() and not waiting.permit.cancelled():
                # It came in the same moment as the end; somebody else may have it.
                waiting.permit.result().give_back()
            else:
                self._line.remove(lane, waiting)
                self._pass_on()
            raise

    def _refuse(self) -> Permit:
        if self._series is not None:
            self._series.refused()
        message = "as many bytes of values are on their way as the broker has memory for; ask again in a moment"
        raise InFlightLimitError(message, retry_after=_RETRY_SECONDS)

    def _fits(self, lane: Hashable, size: int) -> bool:
        return self._used + size <= self._limit and self._held[lane] + size <= self.most

    def _is_behind(self, lane: Hashable) -> bool:
        """Tell whether somebody waits whom a permit for `lane` would keep waiting."""
        if not self._line:
            return False
        # Who waits for others of its own lane is kept from nothing; whoever waits for room is, or the large would
        # never get it.
        return self._line.waiting(lane) > 0 or any(
            self._held[other] + head.size <= self.most for other, head in self._line.heads()
        )

    def _grant(self, lane: Hashable, size: int) -> Permit:
        self._count(lane, size)
        return Permit(self, lane, size)

    def _give_back(self, lane: Hashable, size: int) -> None:
        self._count(lane, -size)
        if not self._held[lane]:
            del self._held[lane]
        if self._line:
            self._pass_on()

    def _count(self, lane: Hashable, size: int) -> None:
        self._used += size
        self._held[lane] += size
        if self._series is not None:
            self._series.used(self._used)

    def _pass_on(self) -> None:
        """Give whoever waits what there is, one permit a lane in rotation."""
        served = True
        while served:
            served = False
            for lane, head in self._line.heads():
                if self._held[lane] + head.size > self.most:
                    continue
                if self._used + head.size > self._limit:
                    return
                permit = self._line.take(lane).permit
                # One who was cancelled a moment ago has not left the line yet.
                if not permit.done():
                    permit.set_result(self._grant(lane, head.size))
                served = True
