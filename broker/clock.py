"""The two clocks of the machine, injected so that tests can move them.

Lifetimes are measured with `monotonic`, because a wall clock jumps; `now` is for display, for
certificates and for tokens, whose limits are wall times by their standards.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Tell the time, in seconds."""

    def now(self) -> float:
        """Return the wall time: seconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Return a time that never goes back; only differences mean anything."""
        ...


class SystemClock:
    """Read the clocks of the operating system."""

    def now(self) -> float:
        """Return the wall time: seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Return a time that never goes back; only differences mean anything."""
        return time.monotonic()
