"""One token of the broker at the store: how long it lives, whether the store still takes it, and how it is renewed."""

from dataclasses import dataclass
from typing import Any, Final

from broker.clock import Clock
from broker.errors import SecretUnusableError, SourceUnavailableError
from broker.logs import EventLogger
from broker.providers.vault.exchange.answers import BAD_REQUEST, FORBIDDEN, StoreAnswerError, bad_answer, unavailable
from broker.providers.vault.logins.method import Grant

_LOG: Final = EventLogger("broker.providers.vault")
PROOF_SECONDS: Final = 5.0


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """A client with its token; times are monotonic."""

    client: Any
    clock: Clock
    digest: bytes
    seconds: float
    renewable: bool
    expires: float
    proved: float
    # Set by the first answer that the token got: a login may give one that the store takes for nothing.
    has_served: bool = False
    # Set when this store's words for a dead token were said about a live one, so that they mean nothing.
    words_lie: bool = False

    @classmethod
    def granted(cls, grant: Grant, *, client: Any, digest: bytes, clock: Clock) -> "Session":  # noqa: ANN401  hvac has no types.
        """Return the session of a token that was given now."""
        now = clock.monotonic()
        session = cls(
            client=client,
            clock=clock,
            digest=digest,
            seconds=grant.seconds,
            renewable=grant.renewable,
            expires=now,
            proved=now,
        )
        session._extend(grant.seconds)
        return session

    @property
    def left(self) -> float:
        """Return for how many seconds more the token is used."""
        return self.expires - self.clock.monotonic()

    @property
    def was_proved_lately(self) -> bool:
        """Tell whether the store has taken the token a moment ago."""
        return self.clock.monotonic() - self.proved < PROOF_SECONDS

    async def look_up(self) -> bool:
        """Ask the store whether the token is good, and return what it says.

        Raises:
            SourceUnavailableError: It can't tell.

        """
        try:
            answer = await self.client.auth.token.lookup_self()
        except StoreAnswerError as error:
            if error.status != FORBIDDEN:
                raise unavailable(error) from None
            if not error.says_policy:
                # A proof from before is none any more, so that readiness tells of the dead token at once.
                self.proved = float("-inf")
                return False
            # A policy was asked, so the token lives; only the broker's rights there are too narrow.
            _LOG.warning("store_rights_missing", path="auth/token/lookup-self", capability="read")
        else:
            if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict):
                # A page of something in between, say: it knows nothing of the token.
                raise bad_answer()
        self.proved = self.clock.monotonic()
        return True

    async def renew(self) -> bool:
        """Try to make the token live longer; return False where the store says that no try will help."""
        try:
            answer = await self.client.auth.token.renew_self()
            seconds = float(answer["auth"]["lease_duration"])
        except StoreAnswerError as error:
            if error.says_policy:
                _LOG.warning("store_rights_missing", path="auth/token/renew-self", capability="update")
            # Past the hard end the store answers 500, as it does for its own faults.
            return error.status not in {BAD_REQUEST, FORBIDDEN}
        except (SourceUnavailableError, SecretUnusableError, KeyError, TypeError, ValueError):
            _LOG.debug("store_token_not_renewed", next_try="in two thirds of what is left")
        else:
            # The store rounds down: 0 seconds granted are the end of the life, no life without end.
            self._extend(max(seconds, 0.1))
        return True

    def _extend(self, seconds: float) -> None:
        """Count `seconds` of life from now, less a margin, so that it is given up before the store does."""
        self.expires = self.clock.monotonic() + seconds - min(5.0, seconds * 0.1) if seconds else float("inf")
