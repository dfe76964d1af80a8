"""When leases end with the broker's own token: it revokes with it whatever was minted under it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker.clock import Clock

# Leases that have ended by themselves may stay until there are so many, and twice as many as there were alive.
_SPARE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInUse:
    """A token of the broker: `end` tells its steady end, `is_replaced` whether nobody renews it any more."""

    end: Callable[[], float]
    is_replaced: Callable[[], bool]


@dataclass(slots=True)
class _End:
    token: TokenInUse
    of_lease: float


class LeaseEnds:
    """Know for each lease that has no parent of its own how long the token lives that it was minted under."""

    def __init__(self, *, clock: Clock) -> None:
        """Begin with none."""
        self._clock = clock
        self._ends: dict[str, _End] = {}
        self._look_at = _SPARE

    def __len__(self) -> int:
        """Return how many are known."""
        return len(self._ends)

    def begin(self, handle: str, token: TokenInUse, *, seconds: float) -> float:
        """Note a lease of `seconds` under `token`; return how many of them it has."""
        self._let_go_of_ended()
        self._ends[handle] = _End(token, self._clock.monotonic() + seconds)
        return self.extend(handle, seconds=seconds)

    def extend(self, handle: str, *, seconds: float) -> float:
        """Note `seconds` of life from now; return how many of them it has."""
        end = self._ends.get(handle)
        if end is None:
            return seconds
        now = self._clock.monotonic()
        end.of_lease = now + seconds
        return max(0.0, min(seconds, end.token.end() - now))

    def is_last(self, handle: str) -> bool:
        """Tell whether the token that it was minted under is renewed no more."""
        end = self._ends.get(handle)
        return end is not None and end.token.is_replaced()

    def forget(self, handle: str) -> None:
        """Let go of a lease that is gone."""
        self._ends.pop(handle, None)

    def _let_go_of_ended(self) -> None:
        """Let go of leases that have ended without a word, now and then."""
        if len(self._ends) < self._look_at:
            return
        now = self._clock.monotonic()
        self._ends = {handle: end for handle, end in self._ends.items() if end.of_lease > now}
        self._look_at = _SPARE + 2 * len(self._ends)
