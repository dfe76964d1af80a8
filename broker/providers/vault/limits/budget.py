"""How much the store is asked at most: a token bucket, whose rate is halved on demand and grows back."""

import asyncio
import math
from typing import Final

from broker.clock import Clock

# Of a second's requests, what flows in and what may be sent at once. Together they are fewer than that: what gets its
# turn in one second may come to the store in the next.
_STEADY: Final = 0.95
_BURST: Final = 0.025
# From this rate on two requests may be sent at once, of which readers leave one; below, one after the other.
_WHOLE: Final = 20.0
# The share of a full bucket that only logins, renewals and look-ups may use, so that readers can't shut the broker out.
_RESERVE: Final = 0.1
# What sums of floating-point fractions may lack of a whole request.
_ROUNDING: Final = 1e-6
# The time in which a rate of nothing would grow back to the whole.
_RECOVERY_SECONDS: Final = 60.0
_SLOWEST: Final = 1.0


class Budget:
    """Let at most `per_second` requests through in any second, a few of them at once; fewer after each `halve`."""

    def __init__(self, *, per_second: float, clock: Clock) -> None:
        """Start with a full bucket."""
        self.per_second = per_second
        self.throttled = 0
        self._clock = clock
        self._rate = per_second
        self._halved_at = -math.inf
        self._at = clock.monotonic()
        self._level = _capacity(per_second)
        # Only the first in each line watches the bucket; the others wait behind it, in order.
        self._lines = {reserved: asyncio.Lock() for reserved in (False, True)}
        self._waiting = {False: 0, True: 0}

    @property
    def rate(self) -> float:
        """Return the requests a second that are let through now."""
        return self._rate_at(self._clock.monotonic())

    async def take(self, *, reserved: bool) -> None:
        """Return when one request may be sent; `reserved` ones may empty the bucket, others leave the reserve."""
        if self.take_at_once(reserved=reserved):
            return
        self._waiting[reserved] += 1
        try:
            async with self._lines[reserved]:
                lacking = self._lacking(reserved=reserved)
                while lacking > _ROUNDING:
                    await asyncio.sleep(lacking / _inflow(self.rate))
                    lacking = self._lacking(reserved=reserved)
                self._level -= 1
        finally:
            self._waiting[reserved] -= 1
        self.throttled += 1

    def take_at_once(self, *, reserved: bool) -> bool:
        """Take what one request needs if it is there and nobody waits for it; return whether it was."""
        if self._waiting[reserved] or self._lacking(reserved=reserved) > _ROUNDING:
            return False
        self._level -= 1
        return True

    def halve(self, *, sent_at: float) -> None:
        """Let half as many through, once for all that were sent before; the rate grows back in steady steps."""
        if sent_at < self._halved_at:
            return
        self._rate = max(self.rate / 2, min(_SLOWEST, self.per_second))
        self._halved_at = self._at = self._clock.monotonic()
        self._level = 0.0

    def _lacking(self, *, reserved: bool) -> float:
        now = self._clock.monotonic()
        rate = self._rate_at(now)
        # The mean of both ends: a rate that grows has let less through before.
        inflow = (now - self._at) * (_inflow(self._rate_at(self._at)) + _inflow(rate)) / 2
        capacity = _capacity(rate)
        self._level = min(capacity, self._level + inflow)
        self._at = now
        # A bucket of one request has nothing to keep back.
        reserve = 0.0 if reserved or capacity < 2 else max(1.0, capacity * _RESERVE)  # noqa: PLR2004  As said.
        return 1 - (self._level - reserve)

    def _rate_at(self, moment: float) -> float:
        grown = (moment - self._halved_at) * self.per_second / _RECOVERY_SECONDS
        return min(self.per_second, self._rate + grown)


def _capacity(rate: float) -> float:
    """Return how many requests may be sent at once."""
    return max(2.0, rate * _BURST) if rate >= _WHOLE else 1.0


def _inflow(rate: float) -> float:
    """Return how many requests a second may follow a full bucket, so that no second has more than `rate`."""
    return rate * _STEADY if rate >= _WHOLE else rate
