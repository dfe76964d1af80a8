"""The requests that the store is asked at most: a token bucket with a reserve for logins and renewals."""

import asyncio
from typing import Final

from broker.clock import Clock

# The share of a full bucket that only logins, renewals and look-ups may use, so that readers can't shut the broker out.
_RESERVE: Final = 0.1


class Budget:
    """Let `per_second` requests through, and one second's worth at once."""

    def __init__(self, *, per_second: float, clock: Clock) -> None:
        """Start with a full bucket."""
        self.per_second = per_second
        self.throttled = 0
        self._capacity = max(1.0, per_second)
        self._clock = clock
        self._level = self._capacity
        self._at = clock.monotonic()

    async def take(self, *, reserved: bool) -> None:
        """Return when one request may be sent; `reserved` ones may empty the bucket, others leave the reserve."""
        floor = 0.0 if reserved or self._capacity * _RESERVE < 1 else self._capacity * _RESERVE
        waited = False
        while True:
            now = self._clock.monotonic()
            self._level = min(self._capacity, self._level + (now - self._at) * self.per_second)
            self._at = now
            if self._level - floor >= 1:
                self._level -= 1
                return
            if not waited:
                waited = True
                self.throttled += 1
            await asyncio.sleep((1 - (self._level - floor)) / self.per_second)
