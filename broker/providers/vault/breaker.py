"""Stop asking a store that can't serve: a probe now and then finds out when it can, and all others fail at once."""

from dataclasses import dataclass
from typing import Final

from broker.clock import Clock
from broker.errors import SourceUnavailableError
from broker.logs import EventLogger

_LOG: Final = EventLogger("broker.providers.vault")
# One lost answer is no outage; three in a row, with no good one between them, are.
_FAILURES: Final = 3
_MAX_PAUSE_SECONDS: Final = 60.0


class BreakerOpenError(SourceUnavailableError):
    """Nothing was sent: the store did not serve a moment ago, and it is not time to look again."""

    was_asked = False


@dataclass(frozen=True, slots=True, eq=False)
class Permit:
    """The leave to send one request. Each is different, so that the breaker knows its probe again."""

    epoch: int


class Breaker:
    """Closed while the store serves; open from the moment it does not, but for one probe at a time."""

    def __init__(self, *, probe_seconds: float, clock: Clock) -> None:
        """Begin closed; while open, let one request through in `probe_seconds`."""
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._failures = 0
        # Counts the changes of state: what was sent before the last one says nothing about the store as it is now.
        self._epoch = 0
        self._is_open = False
        self._reason = ""
        self._probe_at = 0.0
        self._probe: Permit | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether the store is taken to be away."""
        return self._is_open

    def admit(self) -> Permit:
        """Return the leave to send a request, which must come back by `passed`, `failed` or `undecided`.

        Raises:
            BreakerOpenError: The store is away, and it is not time for the next probe.

        """
        permit = Permit(self._epoch)
        if self._is_open:
            left = self._probe_at - self._clock.monotonic()
            if left > 0 or self._probe is not None:
                raise BreakerOpenError(self._reason, retry_after=left if left > 0 else self._probe_seconds)
            self._probe = permit
            self._probe_at = self._clock.monotonic() + self._probe_seconds
        return permit

    def passed(self, permit: Permit) -> bool:
        """Note that the store served a request; return whether that ends an outage."""
        if permit.epoch != self._epoch:
            return False
        self._failures = 0
        if not self._is_open:
            return False
        self._change(is_open=False)
        _LOG.info("store_serves_again")
        return True

    def failed(self, permit: Permit, *, reason: str, at_once: bool = False, retry_after: float | None = None) -> None:
        """Note that the store could not serve a request.

        Args:
            permit: Of the request.
            reason: Why, in words that every refusal repeats as long as the store is away.
            at_once: Whether the store itself says that it can serve nobody, so that one such answer is enough.
            retry_after: Seconds that the store asks for; longer than a minute is not believed.

        """
        if permit.epoch != self._epoch:
            return
        self._failures += 1
        if not self._is_open and not at_once and self._failures < _FAILURES:
            return
        if not self._is_open:
            self._change(is_open=True)
            _LOG.warning("store_away", reason=reason, probe_seconds=self._probe_seconds)
        if permit is self._probe:
            self._probe = None
        self._reason = reason
        pause = max(self._probe_seconds, min(retry_after or 0.0, _MAX_PAUSE_SECONDS))
        # A probe that hung has used its time up already, and the next one is due no earlier than after a full pause.
        self._probe_at = self._clock.monotonic() + pause

    def undecided(self, permit: Permit) -> None:
        """Note that a request ended without a word about the store: it was never sent, or nobody waits for it."""
        if permit is self._probe:
            self._probe = None

    def _change(self, *, is_open: bool) -> None:
        self._is_open = is_open
        self._epoch += 1
        self._failures = 0
        self._probe = None
