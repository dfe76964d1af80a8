"""The broker's token at the store: one login however many requests wait, renewed in time, replaced once when dead."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from broker.clock import Clock
from broker.errors import SecretUnusableError, SourceUnavailableError, UpstreamDeniedError
from broker.logs import EventLogger
from broker.providers.vault.adapter import make_client
from broker.providers.vault.answers import (
    BAD_REQUEST,
    FORBIDDEN,
    SERVER_FAULT,
    StoreAnswerError,
    bad_answer,
    unavailable,
)
from broker.providers.vault.failures import HeldBackError, WayError
from broker.providers.vault.flight import SingleFlight
from broker.providers.vault.login_gate import LoginGate
from broker.providers.vault.logins.method import Credential, Grant, LoginMethod
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport import StoreTransport
from broker.trace_context import untraced

T = TypeVar("T")
_LOG: Final = EventLogger("broker.providers.vault")

_PROOF_SECONDS: Final = 5.0
_RENEW_AT: Final = 2 / 3
_JITTER: Final = 0.1
# Shorter than the time between two probes of a store that is away, so that none of them is wasted on a pause.
_AWAY_SECONDS: Final = 0.9
_FOLLOW_SECONDS: Final = 1.0


@dataclass(slots=True, kw_only=True, eq=False)
class _Session:
    """A client with its token; times are monotonic."""

    client: Any
    digest: bytes
    seconds: float
    renewable: bool
    expires: float
    proved: float
    # Set when this store's words for a dead token were said about a live one, so that they mean nothing.
    words_lie: bool = False

    @classmethod
    def granted(cls, grant: Grant, *, client: Any, digest: bytes, now: float) -> "_Session":  # noqa: ANN401  hvac has no types.
        """Return the session of a token that was given `now`."""
        session = cls(
            client=client, digest=digest, seconds=grant.seconds, renewable=grant.renewable, expires=now, proved=now
        )
        session.extend(now=now, seconds=grant.seconds)
        return session

    def extend(self, *, now: float, seconds: float) -> None:
        """Count `seconds` of life from `now`, less a margin, so that it is given up before the store does."""
        self.expires = now + seconds - min(5.0, seconds * 0.1) if seconds else float("inf")


class StoreLogin:
    """Hold the one session whose token is good, as far as anybody knows."""

    def __init__(
        self, *, settings: VaultSettings, method: LoginMethod, transport: StoreTransport, clock: Clock
    ) -> None:
        """Keep the collaborators; the first login is made when somebody needs it."""
        self._settings = settings
        self._method = method
        self._transport = transport
        self._clock = clock
        self._gate = LoginGate(clock=clock, refusals=method.refusals)
        self._flights = SingleFlight()
        self._session: _Session | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._followed = clock.monotonic()
        self._closed = False

    async def call(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        """Return what `ask` returns with a client that is logged in; a dead token is replaced once.

        Raises:
            UpstreamDeniedError: The store refuses it, and the token is good.
            SourceUnavailableError: The store can't be asked, or refuses the login.
            StoreAnswerError: The store answered with another error than 403.

        """
        session = await self._current()
        for _ in range(2):
            try:
                return await ask(session.client)
            except StoreAnswerError as error:
                if error.status != FORBIDDEN:
                    raise
                refusal = error
            if await self._is_good(session, recent_proof_will_do=refusal.says_policy):
                message = "the store denies the broker this path; look at the policy of the broker's role there"
                raise UpstreamDeniedError(message, words=refusal.words)
            session = await self._replace(session)
        message = "the store refuses the broker's new token too"
        raise SourceUnavailableError(message, retry_after=_PROOF_SECONDS)

    @property
    def can_renew(self) -> bool:
        """Tell whether the token in use can be renewed."""
        return self._session is not None and self._session.renewable

    def end_of_token(self) -> Callable[[], float]:
        """Return what tells the monotonic end of the token in use now, also after another has replaced it."""
        session = self._session
        return lambda: float("-inf") if session is None else session.expires

    async def prove(self, *, recent_proof_will_do: bool = True) -> None:
        """Return when there is a token that the store takes; without `recent_proof_will_do` it is asked now.

        Raises:
            SourceUnavailableError: There is none.

        """
        session = await self._current()
        if not await self._is_good(session, recent_proof_will_do=recent_proof_will_do):
            await self._replace(session)

    async def write(self) -> bool:
        """Return whether the leader of the store took a write; it does not where the token can't be renewed.

        Raises:
            SourceUnavailableError: There is no leader that can be asked.

        """
        try:
            # The one write that every broker may do, and that changes nothing of anybody else's.
            await self.call(lambda client: client.auth.token.renew_self())
        except UpstreamDeniedError:
            return False
        except StoreAnswerError as error:
            if error.status >= SERVER_FAULT:
                raise unavailable(error) from None
            return False
        return True

    async def aclose(self) -> None:
        """End the renewal and what else is under way; a second call does nothing."""
        self._closed = True
        await self._flights.aclose()
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()
            await asyncio.wait({renewal})

    async def _current(self) -> _Session:
        session = self._session
        if session is None or self._clock.monotonic() >= session.expires:
            return await self._replace(session)
        if self._method.follows_file and self._clock.monotonic() - self._followed >= _FOLLOW_SECONDS:
            self._followed = self._clock.monotonic()
            return await self._follow(session)
        return session

    async def _follow(self, session: _Session) -> _Session:
        """Return the session of the credential that is in the file now, and `session` as long as that is no better."""
        try:
            credential = await asyncio.to_thread(self._method.read)
            return session if credential.digest == session.digest else await self._replace(session)
        except SourceUnavailableError as error:
            _LOG.warning("store_credential_not_followed", reason=error.detail, effect="the old token stays in use")
            return session

    async def _replace(self, dead: _Session | None) -> _Session:
        if self._session is not None and self._session is not dead:
            return self._session
        return await self._flights.run("login", self._login)

    async def _is_good(self, session: _Session, *, recent_proof_will_do: bool) -> bool:
        """Tell a denial from a dead token: both are 403, and only the token's own look-up knows."""
        if self._session is not session:
            return False
        if (recent_proof_will_do or session.words_lie) and self._clock.monotonic() - session.proved < _PROOF_SECONDS:
            return True
        is_good = await self._flights.run(session, lambda: self._look_up(session))
        session.words_lie |= is_good and not recent_proof_will_do
        return is_good

    async def _look_up(self, session: _Session) -> bool:
        try:
            answer = await session.client.auth.token.lookup_self()
        except StoreAnswerError as error:
            if error.status != FORBIDDEN:
                raise unavailable(error) from None
            if not error.says_policy:
                # A proof from before is none any more, so that readiness tells of the dead token at once.
                session.proved = float("-inf")
                return False
            # A policy was asked, so the token lives; only the broker's rights there are too narrow.
            _LOG.warning("store_rights_missing", path="auth/token/lookup-self", capability="read")
        else:
            if not isinstance(answer, dict):
                # A page of something in between, say: it knows nothing of the token.
                raise bad_answer()
        session.proved = self._clock.monotonic()
        return True

    async def _login(self) -> _Session:
        if self._closed:
            message = "the broker has closed its connection to the store"
            raise SourceUnavailableError(message)
        credential = await asyncio.to_thread(self._method.read)
        self._gate.check(credential)
        try:
            session = await self._log_in_with(credential)
        except StoreAnswerError as error:
            if error.status in {BAD_REQUEST, FORBIDDEN}:
                _LOG.warning("store_login_refused", said=error.words.said)
                raise self._gate.refused(credential, status=error.status) from None
            raise self._gate.failed(unavailable(error)) from None
        except HeldBackError:
            # Nothing was tried, so nothing failed.
            raise
        except WayError as error:
            # The breaker already keeps a store that is away from being asked often.
            raise self._gate.failed(error, limit_seconds=_AWAY_SECONDS) from None
        except SourceUnavailableError as error:
            raise self._gate.failed(error) from None
        except (AttributeError, KeyError, TypeError, ValueError, SecretUnusableError):
            raise self._gate.failed(bad_answer()) from None
        self._gate.passed()
        self._adopt(session)
        return session

    async def _log_in_with(self, credential: Credential) -> _Session:
        client = make_client(settings=self._settings, transport=self._transport, token=None)
        grant = await self._method.log_in(client, credential)
        if grant.uses:
            message = "the broker's token may be used a limited number of times, which does not fit a cache"
            raise SourceUnavailableError(message)
        now = self._clock.monotonic()
        return _Session.granted(grant, client=client, digest=credential.digest, now=now)

    def _adopt(self, session: _Session) -> None:
        self._session = session
        if self._renewal is not None:
            self._renewal.cancel()
        self._renewal = asyncio.create_task(self._keep(session), context=untraced()) if session.renewable else None

    async def _keep(self, session: _Session) -> None:
        """Renew at two thirds of the life, with jitter; log in anew when the token's hard end comes near."""
        while (left := session.expires - self._clock.monotonic()) > 0:
            spread = random.uniform(1 - _JITTER, 1)  # noqa: S311  A pause is no secret.
            await asyncio.sleep(max(left * _RENEW_AT * spread, 0.2))
            try:
                answer = await session.client.auth.token.renew_self()
                seconds = float(answer["auth"]["lease_duration"])
            except StoreAnswerError as error:
                if error.status in {BAD_REQUEST, FORBIDDEN}:
                    # Dead or not renewable: the next request finds out which, and logs in once.
                    return
                # Past the hard end the store answers 500, as it does for its own faults.
            except (SourceUnavailableError, SecretUnusableError, KeyError, TypeError, ValueError):
                _LOG.debug("store_token_not_renewed", next_try="in two thirds of what is left")
            else:
                # The store rounds down: 0 seconds granted are the end of the life, no life without end.
                session.extend(now=self._clock.monotonic(), seconds=max(seconds, 0.1))
            ending = session.expires - self._clock.monotonic() <= session.seconds / 2
            if ending and not self._method.follows_file and await self._log_in_early(session):
                return

    async def _log_in_early(self, session: _Session) -> bool:
        try:
            await self._replace(session)
        except SourceUnavailableError:
            # The old token is still good for a while, and the next request after that logs in.
            _LOG.warning("store_login_failed", detail="tried again when its token ends")
            return False
        return True
