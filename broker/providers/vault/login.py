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
from broker.providers.vault.answers import BAD_REQUEST, FORBIDDEN, StoreAnswerError, bad_answer, unavailable
from broker.providers.vault.budget import Backoff
from broker.providers.vault.credential import Credential, read_credential
from broker.providers.vault.flight import SingleFlight
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport import StoreTransport

T = TypeVar("T")
_LOG: Final = EventLogger("broker.providers.vault")

# The store locks a role out after five failures; the broker stops well before, until the credential changes.
_MAX_REFUSALS: Final = 2
_PROOF_SECONDS: Final = 5.0
_RENEW_AT: Final = 2 / 3
_JITTER: Final = 0.1


@dataclass(slots=True, kw_only=True, eq=False)
class _Session:
    """A client with its token; times are monotonic."""

    client: Any
    seconds: float
    renewable: bool
    expires: float
    proved: float

    def extend(self, *, now: float, seconds: float) -> None:
        """Count `seconds` of life from `now`, less a margin, so that it is given up before the store does."""
        self.expires = now + seconds - min(5.0, seconds * 0.1) if seconds else float("inf")


class StoreLogin:
    """Hold the one session whose token is good, as far as anybody knows."""

    def __init__(self, *, settings: VaultSettings, transport: StoreTransport, clock: Clock) -> None:
        """Keep the collaborators; the first login is made when somebody needs it."""
        self._settings = settings
        self._transport = transport
        self._clock = clock
        self._gate = _LoginGate(clock=clock)
        self._flights = SingleFlight()
        self._session: _Session | None = None
        self._renewal: asyncio.Task[None] | None = None
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
                says_policy = error.says_policy
            if await self._is_good(session, recent_proof_will_do=says_policy):
                message = "the store denies the broker this path; look at the policy of the broker's role there"
                raise UpstreamDeniedError(message)
            session = await self._replace(session)
        message = "the store refuses the broker's new token too"
        raise SourceUnavailableError(message, retry_after=_PROOF_SECONDS)

    async def prove(self) -> None:
        """Return when there is a token that the store takes.

        Raises:
            SourceUnavailableError: There is none.

        """
        session = await self._current()
        if not await self._is_good(session, recent_proof_will_do=True):
            await self._replace(session)

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
        if session is not None and self._clock.monotonic() < session.expires:
            return session
        return await self._replace(session)

    async def _replace(self, dead: _Session | None) -> _Session:
        if self._session is not None and self._session is not dead:
            return self._session
        return await self._flights.run("login", self._login)

    async def _is_good(self, session: _Session, *, recent_proof_will_do: bool) -> bool:
        """Tell a denial from a dead token: both are 403, and only the token's own look-up knows."""
        if self._session is not session:
            return False
        if recent_proof_will_do and self._clock.monotonic() - session.proved < _PROOF_SECONDS:
            return True
        return await self._flights.run(session, lambda: self._look_up(session))

    async def _look_up(self, session: _Session) -> bool:
        try:
            await session.client.auth.token.lookup_self()
        except StoreAnswerError as error:
            if error.status != FORBIDDEN:
                raise unavailable(error) from None
            if not error.says_policy:
                return False
            # A policy was asked, so the token lives; only the broker's rights there are too narrow.
            _LOG.warning("store_rights_missing", path="auth/token/lookup-self", capability="read")
        session.proved = self._clock.monotonic()
        return True

    async def _login(self) -> _Session:
        if self._closed:
            message = "the broker has closed its connection to the store"
            raise SourceUnavailableError(message)
        credential = await asyncio.to_thread(read_credential, self._settings.auth)
        self._gate.check(credential)
        try:
            session = await self._log_in_with(credential)
        except StoreAnswerError as error:
            if error.status in {BAD_REQUEST, FORBIDDEN}:
                raise self._gate.refused(credential) from None
            raise self._gate.failed(unavailable(error)) from None
        except SourceUnavailableError as error:
            raise self._gate.failed(error) from None
        except (AttributeError, KeyError, TypeError, ValueError, SecretUnusableError):
            raise self._gate.failed(bad_answer()) from None
        self._gate.passed()
        self._adopt(session)
        return session

    async def _log_in_with(self, credential: Credential) -> _Session:
        secret = credential.secret.reveal().decode("ascii")
        approle = self._settings.auth.approle
        if approle is None:
            client = make_client(settings=self._settings, transport=self._transport, token=secret)
            facts = await self._facts_of_token(client)
            seconds = float(facts["ttl"])
        else:
            client = make_client(settings=self._settings, transport=self._transport, token=None)
            facts = (
                await client.auth.approle.login(role_id=credential.role_id, secret_id=secret, mount_point=approle.mount)
            )["auth"]
            seconds = float(facts["lease_duration"])
        if int(facts.get("num_uses") or 0):
            message = "the broker's token may be used a limited number of times, which does not fit a cache"
            raise SourceUnavailableError(message)
        now = self._clock.monotonic()
        renewable = bool(facts.get("renewable")) and seconds > 0
        session = _Session(client=client, seconds=seconds, renewable=renewable, expires=now, proved=now)
        session.extend(now=now, seconds=seconds)
        return session

    async def _facts_of_token(self, client: Any) -> dict[str, Any]:  # noqa: ANN401  hvac has no types.
        try:
            return dict((await client.auth.token.lookup_self())["data"])
        except StoreAnswerError as error:
            if not error.says_policy:
                raise
            _LOG.warning("store_rights_missing", path="auth/token/lookup-self", capability="read", lost="renewal")
            return {"ttl": 0, "renewable": False}

    def _adopt(self, session: _Session) -> None:
        self._session = session
        if self._renewal is not None:
            self._renewal.cancel()
        self._renewal = asyncio.create_task(self._keep(session)) if session.renewable else None

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
            if ending and self._settings.auth.approle is not None and await self._log_in_early(session):
                return

    async def _log_in_early(self, session: _Session) -> bool:
        try:
            await self._replace(session)
        except SourceUnavailableError:
            # The old token is still good for a while, and the next request after that logs in.
            _LOG.warning("store_login_failed", detail="tried again when its token ends")
            return False
        return True


class _LoginGate:
    """Keep a refused or failing login from being repeated: the store counts failures and locks roles out."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._backoff = Backoff(first_seconds=0.5, limit_seconds=15.0)
        self._not_before = float("-inf")
        self._last = ""
        self._refusals = 0
        self._digest = b""

    def check(self, credential: Credential) -> None:
        """Return when a login with `credential` may be tried now."""
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
        self._refusals = 0
        self._not_before = float("-inf")
        self._backoff.passed()

    def refused(self, credential: Credential) -> SourceUnavailableError:
        """Count a refusal, and return the error for it."""
        self._digest = credential.digest
        self._refusals += 1
        message = "the store refuses the broker's login; look at the credential in its file and at its role there"
        return self.failed(SourceUnavailableError(message))

    def failed(self, error: SourceUnavailableError) -> SourceUnavailableError:
        """Begin a pause, and return the error with its length."""
        pause = max(self._backoff.failed(), error.retry_after or 0.0)
        self._not_before = self._clock.monotonic() + pause
        self._last = error.detail
        return SourceUnavailableError(error.detail, retry_after=pause)
