"""A token bucket: so many at once, and after that so many a second. Pure."""

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """What one asker may still take; steady times are of `Clock.monotonic`.

    Attributes:
        burst: Takes at once, when nothing was taken for long.
        per_second: Takes a second that flow in.
        at: Steady time of the last look.
        level: Takes that were there then.

    """

    burst: float
    per_second: float
    at: float
    level: float

    @classmethod
    def full(cls, *, burst: float, per_second: float, now: float) -> "TokenBucket":
        """Return a full one."""
        return cls(burst, per_second, now, burst)

    def take(self, now: float) -> float:
        """Take one and return 0, or take nothing and return the seconds until there is one."""
        self.level = min(self.burst, self.level + (now - self.at) * self.per_second)
        self.at = now
        if self.level >= 1:
            self.level -= 1
            return 0.0
        return (1 - self.level) / self.per_second

    def owe(self, takes: float) -> None:
        """Count `takes` more for what was let in already; until they have flowed in, there is nothing to take."""
        self.level -= takes
