"""Growing pauses after failures, random so that what failed together does not come back together."""

import random


class Backoff:
    """Ask for growing pauses with full jitter: each a random part of a bound that doubles up to a limit."""

    def __init__(self, *, first_seconds: float, limit_seconds: float) -> None:
        """Start without a failure."""
        self._first = first_seconds
        self._limit = limit_seconds
        self._failures = 0

    def failed(self) -> float:
        """Count a failure, and return the seconds to wait after it."""
        bound = min(self._limit, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return random.uniform(0, bound)  # noqa: S311  A pause is no secret.

    def passed(self) -> None:
        """Begin anew."""
        self._failures = 0
