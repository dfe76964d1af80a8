"""Stop asking a store that can't serve: a probe now and then finds out when it can, and all others fail at once."""

from dataclasses import dataclass
from typing import Final

from broker.clock import Clock
from broker.logs import EventLogger
from broker.providers.vault.exchange.failures import HeldBackError
from broker.providers.vault.exchange.request import Place

_LOG: Final = EventLogger("broker.providers.vault")
# One lost answer is no outage; three in a row, with no good one between them, are.
_FAILURES: Final = 3


class BreakerOpenError(HeldBackError):
    """Nothing was sent: the store did not serve a moment ago, and it is not time to look again."""


@dataclass(frozen=True, slots=True, eq=False)
class Permit:
    """The leave to send one request. Each is different, so that the breaker knows its probe again."""

    epoch: int


class Breaker:
    """Closed while the store serves; open from the moment it does not, but for one probe at a time."""

    def __init__(self, *, probe_seconds: float, clock: Clock, place: Place | None = None) -> None:
        """Begin closed; while open, let one request through in `probe_seconds`. It is that of the store, or a place."""
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._event = "store" if place is None else "store_place"
        self._fields = {} if place is None else {"namespace": place.namespace, "part": place.part}
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

    def check(self) -> None:
        """Return when `admit` would give a leave, and use no probe up.

        Raises:
            BreakerOpenError: The store is away, and it is not time for the next probe.

        """
        left = self._probe_at - self._clock.monotonic()
        if self._is_open and (left > 0 or self._probe is not None):
            raise BreakerOpenError(self._reason, retry_after=left if left > 0 else self._probe_seconds)

    def admit(self) -> Permit:
        """Return the leave to send a request, which must come back by `passed`, `failed` or `undecided`.

        Raises:
            BreakerOpenError: As `check`.

        """
        self.check()
        permit = Permit(self._epoch)
        if self._is_open:
            self._probe = permit
            self._probe_at = self._clock.monotonic() + self._probe_seconds
        return permit

    def passed(self, permit: Permit) -> None:
        """Note that the store served a request, which ends an outage."""
        if permit.epoch != self._epoch:
            return
        self._failures = 0
        if self._is_open:
            self._change(is_open=False)
            _LOG.info(f"{self._event}_serves_again", **self._fields)

    def failed(self, permit: Permit, *, reason: str, at_once: bool = False, retry_after: float | None = None) -> None:
        """Note that the store could not serve a request.

        Args:
            permit: Of the request.
            reason: Why, in words that every refusal repeats as long as the store is away.
            at_once: Whether the store itself says that it can serve nobody, so that one such answer is enough.
            retry_after: Seconds that the store asks for.

        """
        if permit.epoch != self._epoch:
            return
        self._failures += 1
        if not self._is_open and not at_once and self._failures < _FAILURES:
            return
        if not self._is_open:
            self._change(is_open=True)
            _LOG.warning(f"{self._event}_away", reason=reason, probe_seconds=self._probe_seconds, **self._fields)
        if permit is self._probe:
            self._probe = None
        self._reason = reason
        pause = max(self._probe_seconds, retry_after or 0.0)
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


class PlaceBreakers:
    """A breaker for each place that was shut by itself, so that one namespace in trouble takes no other with it."""

    def __init__(self, *, probe_seconds: float, clock: Clock) -> None:
        """Begin without any: most places are never shut."""
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._breakers: dict[Place, Breaker] = {}

    @property
    def open(self) -> int:
        """Return how many places are taken to be shut."""
        return sum(breaker.is_open for breaker in self._breakers.values())

    def check(self, place: Place) -> None:
        """Return when `admit` would give a leave there. Raises: BreakerOpenError."""
        breaker = self._breakers.get(place)
        if breaker is not None:
            breaker.check()

    def admit(self, place: Place) -> Permit | None:
        """Return the leave to send a request there, None where nothing was ever shut. Raises: BreakerOpenError."""
        breaker = self._breakers.get(place)
        return None if breaker is None else breaker.admit()

    def passed(self, place: Place, permit: Permit | None) -> None:
        """Note that a request was served there."""
        if permit is not None:
            self._breakers[place].passed(permit)

    def shut(self, place: Place, permit: Permit | None, *, reason: str) -> None:
        """Note that the store says of this place that it is shut."""
        breaker = self._breakers.get(place)
        if breaker is None:
            breaker = self._breakers[place] = Breaker(probe_seconds=self._probe_seconds, clock=self._clock, place=place)
            permit = breaker.admit()
        # What was sent before the first breaker of the place was there says nothing new.
        if permit is not None:
            breaker.failed(permit, reason=reason, at_once=True)

    def undecided(self, place: Place, permit: Permit | None) -> None:
        """Note that a request ended without a word about its place."""
        if permit is not None:
            self._breakers[place].undecided(permit)
