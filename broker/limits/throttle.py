"""How often one identity may ask: a token bucket each, so that an agent in a crash loop slows itself alone."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from broker.clock import Clock
from broker.errors import ThrottledError
from broker.limits.token_bucket import TokenBucket

# Refusals of one identity are put on record once in this time, so that they can't flood the trail.
RECORD_SECONDS: Final = 60.0
_MAX_IDENTITIES: Final = 100_000
# Reading, deciding and recording a body costs by its length, and the twenty references of an agent are shorter.
_BYTES_OF_ONE: Final = 2048


@dataclass(slots=True)
class _Asker:
    bucket: TokenBucket
    recorded: float = float("-inf")


class Throttle:
    """Hold a bucket for each identity that has asked lately."""

    def __init__(self, *, clock: Clock, per_second: float, burst: int) -> None:
        """Let each identity ask `per_second` times, and `burst` times at once; 0 a second switches it off."""
        self._clock = clock
        self._per_second = per_second
        self._burst = max(1, burst)
        self._askers: OrderedDict[str, _Asker] = OrderedDict()

    def take(self, identity: str) -> None:
        """Return when `identity` may ask now.

        Raises:
            ThrottledError: It asks too often; the first time in a while `is_news` is true.

        """
        if self._per_second <= 0:
            return
        now = self._clock.monotonic()
        asker = self._askers.get(identity)
        if asker is None:
            bucket = TokenBucket.full(burst=self._burst, per_second=self._per_second, now=now)
            asker = self._askers[identity] = _Asker(bucket)
            if len(self._askers) > _MAX_IDENTITIES:
                # Who has not asked for longest has a full bucket again, or gets one.
                self._askers.popitem(last=False)
        self._askers.move_to_end(identity)
        wait = asker.bucket.take(now)
        if not wait:
            return
        is_news = now - asker.recorded >= RECORD_SECONDS
        if is_news:
            asker.recorded = now
        message = "this identity asks too often; wait as long as Retry-After says, and keep what you were given"
        raise ThrottledError(message, retry_after=wait, is_news=is_news)

    def weigh(self, identity: str, size: int) -> None:
        """Count a request of `identity` that was let in by the `size` of its body, in bytes: a long one is several."""
        asker = self._askers.get(identity)
        if asker is not None:
            asker.bucket.owe(size // _BYTES_OF_ONE)
