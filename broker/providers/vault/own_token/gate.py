"""What keeps a refused or failing login from being repeated."""

import math
from collections import deque
from typing import Final

from broker.backoff import Backoff
from broker.clock import Clock
from broker.errors import SourceUnavailableError
from broker.providers.vault.exchange.answers import BAD_REQUEST, StoreAnswerError
from broker.providers.vault.logins.method import Credential, Refusals

# The store locks a role or a user out after five failures within a quarter of an hour, whatever credentials they were;
# the broker stops well before: with one credential until it changes, and with all of them until time has passed.
_MAX_REFUSALS: Final = 2
_MAX_REFUSALS_LATELY: Final = 3
_LATELY_SECONDS: Final = 900.0
# A person may put an end to it at any time, so nobody is told to wait for longer.
_TOLD_SECONDS: Final = 30.0
# Where nobody is locked out, a refusal may end without a new credential: by a role that is put right in the store.
_SLOW_SECONDS: Final = 30.0


class LoginGate:
    """Keep a refused or failing login from being repeated: the store counts failures and locks roles out."""

    def __init__(self, *, clock: Clock, refusals: Refusals) -> None:
        """Start with nothing refused; `refusals` says what they mean for this way to log in."""
        self._clock = clock
        self._meaning = refusals
        self._backoff = Backoff(first_seconds=0.5, limit_seconds=15.0)
        self._not_before = float("-inf")
        self._last = ""
        self._refusals = 0
        self._digest = b""
        self._refused_at: deque[float] = deque(maxlen=_MAX_REFUSALS_LATELY)

    def check(self, credential: Credential) -> None:
        """Return when a login with `credential` may be tried now.

        Raises:
            SourceUnavailableError: It was refused too often, or the pause after a failure is not over.

        """
        if credential.digest != self._digest:
            self._digest = credential.digest
            self._begin_anew()
        if self._refusals >= _MAX_REFUSALS:
            message = "the store refused the broker's login twice; put a good credential in its file"
            raise SourceUnavailableError(message, retry_after=_TOLD_SECONDS)
        now = self._clock.monotonic()
        if self._meaning is Refusals.COUNTED and len(self._refused_at) == _MAX_REFUSALS_LATELY:
            left = self._refused_at[0] + _LATELY_SECONDS - now
            if left > 0:
                message = (
                    f"the store refused {_MAX_REFUSALS_LATELY} logins of the broker within a quarter of an hour; the "
                    "new credential is tried when that is over, or the store would lock the broker's role out"
                )
                raise SourceUnavailableError(message, retry_after=min(left, _TOLD_SECONDS))
        if self._not_before > now:
            raise SourceUnavailableError(self._last, retry_after=self._not_before - now)

    def passed(self) -> None:
        """Forget what was refused before, as the store does; the pauses go on growing until the token has served."""
        self._refusals = 0
        self._not_before = float("-inf")
        self._refused_at.clear()

    def served(self) -> None:
        """Let the next pause begin small: the token that a login gave is taken."""
        self._backoff.passed()

    def refused(self, credential: Credential, refusal: StoreAnswerError) -> SourceUnavailableError:
        """Count a refusal of the store, and return the error for it."""
        self._digest = credential.digest
        lately = len(self._refused_at)
        self._refused_at.append(self._clock.monotonic())
        match self._meaning:
            case Refusals.COUNTED:
                # A good credential of a role that is locked out is forbidden, and taken when the lock has ended.
                self._refusals += refusal.status == BAD_REQUEST
            case Refusals.FINAL:
                self._refusals += 1
            case Refusals.OPEN:
                pass
        message = "the store refuses the broker's login; look at the credential in its file and at its role there"
        slow = lately >= _MAX_REFUSALS and self._meaning is Refusals.OPEN
        pause = _SLOW_SECONDS if slow else None
        return self.failed(SourceUnavailableError(message, retry_after=pause, words=refusal.words))

    def failed(self, error: SourceUnavailableError, *, limit_seconds: float = math.inf) -> SourceUnavailableError:
        """Begin a pause, no longer than `limit_seconds` unless the store asks for more; return the error with it."""
        pause = max(min(self._backoff.failed(), limit_seconds), error.retry_after or 0.0)
        self._not_before = self._clock.monotonic() + pause
        self._last = error.detail
        return SourceUnavailableError(error.detail, retry_after=pause, words=error.words)

    def _begin_anew(self) -> None:
        self._refusals = 0
        self._not_before = float("-inf")
        self._backoff.passed()
