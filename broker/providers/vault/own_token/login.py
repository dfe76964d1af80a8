"""The broker's token at the store: one login however many requests wait, renewed in time, replaced once when dead."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from broker.clock import Clock
from broker.errors import SecretUnusableError, SourceUnavailableError, UpstreamDeniedError
from broker.logs import EventLogger
from broker.providers.vault.adapter import make_client
from broker.providers.vault.exchange.answers import (
    BAD_REQUEST,
    FORBIDDEN,
    SERVER_FAULT,
    StoreAnswerError,
    bad_answer,
    unavailable,
)
from broker.providers.vault.exchange.failures import HeldBackError, WayError
from broker.providers.vault.flight import SingleFlight
from broker.providers.vault.logins.method import Credential, LoginMethod
from broker.providers.vault.own_token.gate import LoginGate
from broker.providers.vault.own_token.lease_ends import TokenInUse
from broker.providers.vault.own_token.session import PROOF_SECONDS, Session
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport.transport import StoreTransport
from broker.trace_context import untraced

T = TypeVar("T")
_LOG: Final = EventLogger("broker.providers.vault")

_RENEW_AT: Final = 2 / 3
_JITTER: Final = 0.1
# Shorter than the time between two probes of a store that is away, so that none of them is wasted on a pause.
_AWAY_SECONDS: Final = 0.9
_FOLLOW_SECONDS: Final = 1.0
_REFUSED_TOO: Final = "the store refuses the broker's new token too"


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
        self._session: Session | None = None
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
                answer = await ask(session.client)
            except StoreAnswerError as error:
                if error.status != FORBIDDEN:
                    raise
                refusal = error
            else:
                self._note_served(session)
                return answer
            if await self._is_good(session, recent_proof_will_do=refusal.says_policy):
                message = "the store denies the broker this path; look at the policy of the broker's role there"
                raise UpstreamDeniedError(message, words=refusal.words)
            session = await self._replace_dead(session)
        raise SourceUnavailableError(_REFUSED_TOO, retry_after=PROOF_SECONDS)

    @property
    def can_renew(self) -> bool:
        """Tell whether the token in use can be renewed."""
        return self._session is not None and self._session.renewable

    def token_in_use(self) -> TokenInUse:
        """Return what tells of the token in use now, also after another has replaced it."""
        session = self._session
        return TokenInUse(
            end=lambda: float("-inf") if session is None else session.expires,
            is_replaced=lambda: self._session is not session,
        )

    async def prove(self, *, recent_proof_will_do: bool = True) -> None:
        """Return when there is a token that the store takes; without `recent_proof_will_do` it is asked now.

        Raises:
            SourceUnavailableError: There is none.

        """
        session = await self._current()
        if not await self._is_good(session, recent_proof_will_do=recent_proof_will_do):
            await self._replace_dead(session)

    async def write(self) -> bool:
        """Return whether the leader of the store took a write; it does not where the token can't be renewed.

        Raises:
            SourceUnavailableError: There is no leader that can be asked.

        """
        try:
            # The one write that every broker may do, and that changes nothing of anybody else's.
            answer = await self.call(lambda client: client.auth.token.renew_self())
        except UpstreamDeniedError:
            return False
        except StoreAnswerError as error:
            if error.status >= SERVER_FAULT:
                raise unavailable(error) from None
            return False
        if not isinstance(answer, dict) or not isinstance(answer.get("auth"), dict):
            raise bad_answer()
        return True

    async def aclose(self) -> None:
        """End the renewal and what else is under way; a second call does nothing."""
        self._closed = True
        await self._flights.aclose()
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()
            await asyncio.wait({renewal})

    async def _current(self) -> Session:
        session = self._session
        if session is None or session.left <= 0:
            return await self._replace(session)
        if self._method.follows_file and self._clock.monotonic() - self._followed >= _FOLLOW_SECONDS:
            self._followed = self._clock.monotonic()
            return await self._follow(session)
        return session

    async def _follow(self, session: Session) -> Session:
        """Return the session of the credential that is in the file now, and `session` as long as that is no better."""
        try:
            credential = await asyncio.to_thread(self._method.read)
            return session if credential.digest == session.digest else await self._replace(session)
        except SourceUnavailableError as error:
            _LOG.warning("store_credential_not_followed", reason=error.detail, effect="the old token stays in use")
            return session

    async def _replace(self, dead: Session | None) -> Session:
        if self._session is not None and self._session is not dead:
            return self._session
        return await self._flights.run("login", self._login)

    async def _replace_dead(self, session: Session) -> Session:
        """Return another session in place of one whose token is dead.

        Raises:
            SourceUnavailableError: There is none, or the token is new, and another login would give another such one.

        """
        if self._session is session and not session.has_served:
            self._session = None
            raise self._gate.failed(SourceUnavailableError(_REFUSED_TOO))
        return await self._replace(session)

    def _note_served(self, session: Session) -> None:
        if not session.has_served:
            session.has_served = True
            self._gate.served()

    async def _is_good(self, session: Session, *, recent_proof_will_do: bool) -> bool:
        """Tell a denial from a dead token: both are 403, and only the token's own look-up knows."""
        if self._session is not session:
            return False
        if (recent_proof_will_do or session.words_lie) and session.was_proved_lately:
            return True
        is_good = await self._flights.run(session, session.look_up)
        session.words_lie |= is_good and not recent_proof_will_do
        if is_good:
            self._note_served(session)
        return is_good

    async def _login(self) -> Session:
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
                raise self._gate.refused(credential, error) from None
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

    async def _log_in_with(self, credential: Credential) -> Session:
        client = make_client(settings=self._settings, transport=self._transport, token=None)
        grant = await self._method.log_in(client, credential)
        if grant.uses:
            message = "the broker's token may be used a limited number of times, which does not fit a cache"
            raise SourceUnavailableError(message)
        return Session.granted(grant, client=client, digest=credential.digest, clock=self._clock)

    def _adopt(self, session: Session) -> None:
        self._session = session
        if self._renewal is not None:
            self._renewal.cancel()
        self._renewal = asyncio.create_task(self._keep(session), context=untraced()) if session.renewable else None

    async def _keep(self, session: Session) -> None:
        """Renew at two thirds of the life, with jitter; log in anew when the token's hard end comes near."""
        while (left := session.left) > 0:
            spread = random.uniform(1 - _JITTER, 1)  # noqa: S311  A pause is no secret.
            await asyncio.sleep(max(left * _RENEW_AT * spread, 0.2))
            if not await session.renew():
                # Dead or not renewable: the next request finds out which, and logs in once.
                return
            ending = session.left <= session.seconds / 2
            if ending and not self._method.follows_file and await self._log_in_early(session):
                return

    async def _log_in_early(self, session: Session) -> bool:
        try:
            await self._replace(session)
        except SourceUnavailableError:
            # The old token is still good for a while, and the next request after that logs in.
            _LOG.warning("store_login_failed", detail="tried again when its token ends")
            return False
        return True
