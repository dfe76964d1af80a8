"""Where the store answered 429: nothing is asked there until the pause is over, and then half as much as before."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from broker.backoff import Backoff
from broker.clock import Clock
from broker.providers.vault.exchange.failures import HeldBackError
from broker.providers.vault.limits.budget import Budget

_LONGEST_PAUSE_SECONDS: Final = 60.0


class RateLimitedError(HeldBackError):
    """Nothing was sent: the store limits the rate of such requests."""


def _backoff() -> Backoff:
    return Backoff(first_seconds=1.0, limit_seconds=_LONGEST_PAUSE_SECONDS)


@dataclass(slots=True, kw_only=True)
class _Limit:
    budget: Budget
    until: float = 0.0
    waiting: int = 0
    backoff: Backoff = field(default_factory=_backoff)


class RateLimits:
    """Hold a pause and a budget of its own for each place that was limited, so that no other place pays for it."""

    def __init__(self, *, per_second: float, max_waiting: int, wait_seconds: float, clock: Clock) -> None:
        """Start without any.

        Args:
            per_second: Requests a second that a place gets while nothing limits it.
            max_waiting: Requests that wait for the budget of one place at once; they keep others from their turn.
            wait_seconds: How long one of them waits at most.
            clock: Tells the time.

        """
        self._per_second = per_second
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._limits: dict[Hashable, _Limit] = {}

    @property
    def lowest(self) -> float:
        """Return the requests a second of the place that gets least."""
        return min((limit.budget.rate for limit in self._limits.values()), default=self._per_second)

    def waiting(self, place: Hashable) -> int | None:
        """Return how many wait for the budget of `place`, None when nothing limits it."""
        limit = self._limits.get(place)
        return None if limit is None else limit.waiting

    async def enter(self, place: Hashable, *, reserved: bool) -> None:
        """Return when something may be asked at `place`; what is `reserved` waits for no budget.

        Raises:
            RateLimitedError: The pause is not over, or too many wait already.

        """
        limit = self._limits.get(place)
        if limit is None:
            return
        now = self._clock.monotonic()
        self._check(limit, now)
        rate = limit.budget.rate
        if rate >= self._per_second and limit.until + _LONGEST_PAUSE_SECONDS <= now:
            del self._limits[place]
        elif not reserved and rate < self._per_second:
            await self._wait(limit)
            # Another answer may have begun a pause meanwhile.
            self._check(limit, self._clock.monotonic())

    def limited(self, place: Hashable, *, sent_at: float, retry_after: float | None) -> float:
        """Note a 429 to a request that was sent at `sent_at`; return the seconds of the pause that begins.

        Where the store names no time, the pause grows from one to the next, and the budget of the place is halved.
        """
        limit = self._limits.get(place)
        if limit is None:
            limit = self._limits[place] = _Limit(budget=Budget(per_second=self._per_second, clock=self._clock))
        grown = limit.backoff.failed()
        if not retry_after:
            limit.budget.halve(sent_at=sent_at)
        pause = grown if retry_after is None else retry_after
        limit.until = max(limit.until, self._clock.monotonic() + pause)
        return pause

    def answered(self, place: Hashable) -> None:
        """Let the next pause there begin small again: the store has answered."""
        limit = self._limits.get(place)
        # An answer to what was sent before the pause says nothing about the time after it.
        if limit is not None and limit.until <= self._clock.monotonic():
            limit.backoff.passed()

    def _check(self, limit: _Limit, now: float) -> None:
        if limit.until > now:
            message = "the store limits the rate of requests; the broker waits as long as it was told to"
            raise RateLimitedError(message, retry_after=limit.until - now)

    async def _wait(self, limit: _Limit) -> None:
        refused = RateLimitedError(
            "the store limits the rate of requests, and more wait than it lets through",
            retry_after=max(1.0, limit.waiting / limit.budget.rate),
        )
        if limit.waiting >= self._max_waiting:
            raise refused
        limit.waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await limit.budget.take(reserved=False)
        except TimeoutError:
            raise refused from None
        finally:
            limit.waiting -= 1
