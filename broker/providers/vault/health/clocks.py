"""How far the broker's wall clock is from the store's: certificates, tokens and deletion times are judged by both."""

from dataclasses import dataclass
from typing import Final

from broker.clock import Clock
from broker.logs import EventLogger
from broker.providers.base import UpstreamObserver

_LOG: Final = EventLogger("broker.providers.vault")
_WARN_SECONDS: Final = 5.0
# An answer that took longer tells too little about the moment at which the store looked at its clock.
_LONGEST_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Moment:
    """When a request for the store's time began, by both clocks."""

    wall: float
    steady: float


class ClockComparison:
    """Compare the two clocks by the store's health document."""

    def __init__(self, *, clock: Clock, observer: UpstreamObserver) -> None:
        """Start with clocks that agree, as far as anybody knows."""
        self._clock = clock
        self._observer = observer
        self._apart = False

    def begin(self) -> Moment:
        """Return the moment at which a request is sent."""
        return Moment(self._clock.now(), self._clock.monotonic())

    def compare(self, began: Moment, health: object) -> None:
        """Tell the observer the difference, and the log when it becomes too large; no time told is no difference."""
        seconds = self._clock.monotonic() - began.steady
        theirs = health.get("server_time_utc") if isinstance(health, dict) else None
        if not isinstance(theirs, int) or isinstance(theirs, bool) or seconds > _LONGEST_SECONDS:
            return
        # The store looked at its clock somewhere in between, and tells whole seconds, which it cuts off.
        skew = began.wall + seconds / 2 - (theirs + 0.5)
        self._observer.clock_skew(provider="vault", seconds=skew)
        apart = abs(skew) > _WARN_SECONDS
        if apart and not self._apart:
            _LOG.warning("clock_skew", seconds=round(skew), detail="compare both clocks with a time server")
        self._apart = apart
