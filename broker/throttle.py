"""How often one identity may ask: a token bucket each, so that an agent in a crash loop slows itself alone."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from broker.clock import Clock
from broker.errors import ThrottledError

# Refusals of one identity are put on record once in this time, so that they can't flood the trail.
RECORD_SECONDS: Final = 60.0
_MAX_IDENTITIES: Final = 100_000


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float
    recorded: float = float("-inf")


class Throttle:
    """Hold a bucket for each identity that has asked lately."""

    def __init__(self, *, clock: Clock, per_second: float, burst: int) -> None:
        """Let each identity ask `per_second` times, and `burst` times at once; 0 a second switches it off."""
        self._clock = clock
        self._per_second = per_second
        self._burst = max(1, burst)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, identity: str) -> None:
        """Return when `identity` may ask now.

        Raises:
            ThrottledError: It asks too often; the first time in a while `is_news` is true.

        """
        if self._per_second <= 0:
            return
        now = self._clock.monotonic()
        bucket = self._buckets.get(identity)
        if bucket is None:
            bucket = self._buckets[identity] = _Bucket(self._burst, now)
            if len(self._buckets) > _MAX_IDENTITIES:
                # Who has not asked for longest has a full bucket again, or gets one.
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(identity)
        bucket.level = min(self._burst, bucket.level + (now - bucket.at) * self._per_second)
        bucket.at = now
        if bucket.level >= 1:
            bucket.level -= 1
            return
        is_news = now - bucket.recorded >= RECORD_SECONDS
        if is_news:
            bucket.recorded = now
        message = "this identity asks too often; wait as long as Retry-After says, and keep what you were given"
        raise ThrottledError(message, retry_after=(1 - bucket.level) / self._per_second, is_news=is_news)
