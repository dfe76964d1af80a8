"""What keeps a refused or failing login from being repeated."""

import math
from typing import Final

from broker.backoff import Backoff
from broker.clock import Clock
from broker.errors import SourceUnavailableError
from broker.providers.vault.logins.method import Credential

# The store locks a role or a user out after five failures; the broker stops well before, until the credential changes.
_MAX_REFUSALS: Final = 2


class LoginGate:
    """Keep a refused or failing login from being repeated: the store counts failures and locks roles out."""

    def __init__(self, *, clock: Clock) -> None:
        """Start with nothing refused."""
        self._clock = clock
        self._backoff = Backoff(first_seconds=0.5, limit_seconds=15.0)
        self._not_before = float("-inf")
        self._last = ""
        self._refusals = 0
        self._digest = b""

    def check(self, credential: Credential) -> None:
        """Return when a login with `credential` may be tried now.

        Raises:
            SourceUnavailableError: It was refused too often, or the pause after a failure is not over.

        """
        if credential.digest != self._digest:
            self._digest = credential.digest
            self.passed()
        if self._refusals >= _MAX_REFUSALS:
            message = "the store refused the broker's login twice; put a good credential in its file"
            raise SourceUnavailableError(message, retry_after=30.0)
        left = self._not_before - self._clock.monotonic()
        if left > 0:
            raise SourceUnavailableError(self._last, retry_after=left)

    def passed(self) -> None:
        """Forget what failed before."""
        self._refusals = 0
        self._not_before = float("-inf")
        self._backoff.passed()

    def refused(self, credential: Credential) -> SourceUnavailableError:
        """Count a refusal, and return the error for it."""
        self._digest = credential.digest
        self._refusals += 1
        message = "the store refuses the broker's login; look at the credential in its file and at its role there"
        return self.failed(SourceUnavailableError(message))

    def failed(self, error: SourceUnavailableError, *, limit_seconds: float = math.inf) -> SourceUnavailableError:
        """Begin a pause, no longer than `limit_seconds` unless the store asks for more; return the error with it."""
        pause = max(min(self._backoff.failed(), limit_seconds), error.retry_after or 0.0)
        self._not_before = self._clock.monotonic() + pause
        self._last = error.detail
        return SourceUnavailableError(error.detail, retry_after=pause)
