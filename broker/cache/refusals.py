"""What sources said instead of a value, remembered for seconds, so that whoever asks in a loop asks memory."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from broker.backoff import Backoff
from broker.clock import Clock
from broker.errors import FetchError, SourceUnavailableError
from broker.reference import Source

# Pauses after failures of one source. A store that is away is the provider's to spare, and not counted here.
_FIRST_SECONDS: Final = 1.0
_LIMIT_SECONDS: Final = 8.0
# A second is young enough for everybody, also for who wants nothing from memory.
_YOUNG_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Refusal:
    error: FetchError
    at: float
    until: float
    backoff: Backoff | None


class Refusals:
    """Hold the last refusal of each source, bounded in number; the oldest goes first."""

    def __init__(self, *, clock: Clock, seconds: float, max_entries: int) -> None:
        """Hold what is missing or denied for `seconds`, and what failed for growing pauses."""
        self._clock = clock
        self._seconds = seconds
        self._max_entries = max_entries
        self._refusals: OrderedDict[Source, _Refusal] = OrderedDict()

    def find(self, source: Source, *, max_age: float) -> FetchError | None:
        """Return what `source` said, when asking again is not due; never older than `max_age` seconds."""
        refusal = self._refusals.get(source)
        if refusal is None:
            return None
        now = self._clock.monotonic()
        left = refusal.until - now
        if left <= 0 or now - refusal.at > max(max_age, _YOUNG_SECONDS):
            return None
        if isinstance(refusal.error, SourceUnavailableError):
            return SourceUnavailableError(refusal.error.detail, retry_after=left, words=refusal.error.words)
        return refusal.error

    def keep(self, source: Source, error: FetchError) -> float:
        """Remember what `source` said; return the seconds in which it had better not be asked again."""
        if not isinstance(error, SourceUnavailableError):
            return self._hold(source, error, self._seconds, backoff=None)
        if not error.was_asked:
            return 0.0
        known = self._refusals.get(source)
        backoff = known.backoff if known is not None else None
        backoff = backoff or Backoff(first_seconds=_FIRST_SECONDS, limit_seconds=_LIMIT_SECONDS)
        return self._hold(source, error, backoff.failed(), backoff=backoff)

    def _hold(self, source: Source, error: FetchError, pause: float, *, backoff: Backoff | None) -> float:
        now = self._clock.monotonic()
        self._refusals[source] = _Refusal(error, now, now + pause, backoff)
        self._refusals.move_to_end(source)
        if len(self._refusals) > self._max_entries:
            self._refusals.popitem(last=False)
        return pause

    def sources(self) -> tuple[Source, ...]:
        """Return what is held now."""
        return tuple(self._refusals)

    def forget(self, source: Source) -> None:
        """Let `source` be asked again at once: it gave a value, or somebody says that it has changed."""
        self._refusals.pop(source, None)

    def clear(self) -> None:
        """Let every source be asked again at once."""
        self._refusals.clear()
