"""How much the store is asked at most: a token bucket for all requests, and a pause where the store asks for one."""

import asyncio
from collections.abc import Hashable
from typing import Final

from broker.backoff import Backoff
from broker.clock import Clock
from broker.errors import SourceUnavailableError

# The share of a full bucket that only logins, renewals and look-ups may use, so that readers can't shut the broker out.
_RESERVE: Final = 0.1
# What sums of floating-point fractions may lack of a whole request.
_ROUNDING: Final = 1e-6
_MAX_PAUSE_SECONDS: Final = 60.0


class Budget:
    """Let `per_second` requests through, and one second's worth at once."""

    def __init__(self, *, per_second: float, clock: Clock) -> None:
        """Start with a full bucket."""
        self.per_second = per_second
        self.throttled = 0
        self._capacity = max(1.0, per_second)
        # A bucket of one request has nothing to keep back.
        self._reserve = max(1.0, self._capacity * _RESERVE) if self._capacity >= 2 else 0.0  # noqa: PLR2004  As said.
        self._clock = clock
        self._level = self._capacity
        self._at = clock.monotonic()
        # Only the first in each line watches the bucket; the others wait behind it, in order.
        self._readers = asyncio.Lock()
        self._reserved = asyncio.Lock()

    async def take(self, *, reserved: bool) -> None:
        """Return when one request may be sent; `reserved` ones may empty the bucket, others leave the reserve."""
        floor = 0.0 if reserved else self._reserve
        line = self._reserved if reserved else self._readers
        waits = line.locked()
        async with line:
            while (lacking := self._lacking(floor)) > _ROUNDING:
                waits = True
                await asyncio.sleep(lacking / self.per_second)
            self._level -= 1
        if waits:
            self.throttled += 1

    def drain(self) -> None:
        """Empty the bucket, so that from now on no second sees more than its rate."""
        self._level = 0.0
        self._at = self._clock.monotonic()

    def _lacking(self, floor: float) -> float:
        now = self._clock.monotonic()
        self._level = min(self._capacity, self._level + (now - self._at) * self.per_second)
        self._at = now
        return 1 - (self._level - floor)


class RateGates:
    """Remember where the store answered 429, and ask nothing there until the pause that it asked for is over."""

    def __init__(self, *, clock: Clock) -> None:
        """Start with every gate open."""
        self._clock = clock
        self._until: dict[Hashable, float] = {}
        self._backoffs: dict[Hashable, Backoff] = {}

    def check(self, key: Hashable) -> None:
        """Return when something may be asked there.

        Raises:
            SourceUnavailableError: The pause is not over.

        """
        left = self._until.get(key, 0.0) - self._clock.monotonic()
        if left > 0:
            message = "the store limits the rate of requests; the broker waits as long as it was told to"
            raise SourceUnavailableError(message, retry_after=left)

    def shut(self, key: Hashable, *, retry_after: float | None) -> float:
        """Begin a pause of `retry_after` seconds, or of a growing time when the store names none; return it."""
        backoff = self._backoffs.setdefault(key, Backoff(first_seconds=1.0, limit_seconds=_MAX_PAUSE_SECONDS))
        grown = backoff.failed()
        pause = min(retry_after, _MAX_PAUSE_SECONDS) if retry_after is not None else grown
        self._until[key] = self._clock.monotonic() + pause
        return pause

    def open(self, key: Hashable) -> None:
        """Forget the pauses there: the store has answered."""
        if self._backoffs.pop(key, None) is not None:
            del self._until[key]
