"""The broker's token at the store: one login however many requests wait, renewed in time, replaced once when dead."""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import hvac

from broker.clock import Clock
from broker.errors import SettingsInvalidError, SourceUnavailableError, UpstreamDeniedError
from broker.key_file import read_private
from broker.providers.vault.adapter import AsyncAdapter, StoreAnswerError, StoreTransport
from broker.providers.vault.settings import AppRoleSettings, VaultSettings

T = TypeVar("T")

# The store locks a role out after five failures; the broker stops well before, until the credential changes.
_MAX_FAILURES: Final = 2
_LOOKUP_SECONDS: Final = 5.0
_RENEW_AT: Final = 2 / 3
_JITTER: Final = 0.1
_FORBIDDEN: Final = 403


class StoreLogin:
    """Hold the one client whose token is good, as far as anybody knows."""

    def __init__(self, *, settings: VaultSettings, transport: StoreTransport, clock: Clock) -> None:
        """Keep the collaborators; the first login is made when somebody needs it."""
        self._settings = settings
        self._transport = transport
        self._clock = clock
        self._turn = asyncio.Lock()
        self._client: Any = None
        self._expires = float("inf")
        self._proved_good = float("-inf")
        self._failures = 0
        self._failed_credential = b""
        self._renewal: asyncio.Task[None] | None = None

    async def call(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        """Return what `ask` returns with a client that is logged in; a dead token is replaced once.

        Raises:
            UpstreamDeniedError: The store refuses it, and the token is good.
            SourceUnavailableError: The store can't be asked, or refuses every login.
            StoreAnswerError: The store answered with another error than 403.

        """
        client = await self._logged_in()
        try:
            return await ask(client)
        except StoreAnswerError as error:
            if error.status != _FORBIDDEN:
                raise
            # This body belongs to a dead token, today: reason enough to ask, and never enough to decide.
            suspicious = error.errors == ("permission denied",)
        if await self._is_good(client, ask_again=suspicious):
            raise _denied()
        client = await self._replace(client)
        try:
            return await ask(client)
        except StoreAnswerError as error:
            if error.status != _FORBIDDEN:
                raise
            raise _denied() from None

    async def prove(self) -> None:
        """Return when there is a token that the store takes.

        Raises:
            SourceUnavailableError: There is none.

        """
        client = await self._logged_in()
        if not await self._is_good(client, ask_again=True):
            await self._replace(client)

    async def aclose(self) -> None:
        """End the renewal; a second call does nothing."""
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()
            with suppress(asyncio.CancelledError):
                await renewal

    async def _logged_in(self) -> Any:  # noqa: ANN401  hvac has no types.
        if self._client is not None and self._clock.monotonic() < self._expires:
            return self._client
        return await self._replace(self._client)

    async def _replace(self, dead: Any) -> Any:  # noqa: ANN401  As above.
        async with self._turn:
            # Whoever waited for the turn finds the new client here, so one login serves all of them.
            if self._client is dead:
                self._client = await self._login()
            return self._client

    async def _is_good(self, client: Any, *, ask_again: bool) -> bool:  # noqa: ANN401  As above.
        """Tell a denial from a dead token: both are 403, and only the token's own look-up knows."""
        async with self._turn:
            if self._client is not client:
                return False
            if not ask_again and self._clock.monotonic() - self._proved_good < _LOOKUP_SECONDS:
                return True
            try:
                await client.auth.token.lookup_self()
            except StoreAnswerError as error:
                if error.status == _FORBIDDEN:
                    return False
                raise _answered_badly(error) from None
            self._proved_good = self._clock.monotonic()
            return True

    async def _login(self) -> Any:  # noqa: ANN401  As above.
        credential = await asyncio.to_thread(self._read_credential)
        digest = hashlib.sha256(b"\0".join(credential)).digest()
        if digest == self._failed_credential and self._failures >= _MAX_FAILURES:
            message = "the store refuses the broker's login; put a good credential in its file"
            raise SourceUnavailableError(message, retry_after=30.0)
        client = hvac.Client(
            url=self._settings.address,
            namespace=self._settings.namespace,
            # Any token keeps hvac from reading the environment and the home directory for one.
            token="none",  # noqa: S106  Not a credential.
            adapter=partial(AsyncAdapter, transport=self._transport),
        )
        client.adapter.token = None
        try:
            lease = await self._prove_with(client, credential)
        except StoreAnswerError as error:
            if error.status not in {400, _FORBIDDEN}:
                raise _answered_badly(error) from None
            self._failures = self._failures + 1 if digest == self._failed_credential else 1
            self._failed_credential = digest
            message = "the store refuses the broker's login; look at the credential in its file"
            raise SourceUnavailableError(message, retry_after=5.0) from None
        self._failures = 0
        now = self._clock.monotonic()
        self._proved_good = now
        self._expires = now + lease.seconds if lease.seconds else float("inf")
        self._schedule_renewal(client, lease)
        return client

    async def _prove_with(self, client: Any, credential: tuple[bytes, ...]) -> "_Lease":  # noqa: ANN401  As above.
        approle = self._settings.auth.approle
        if approle is None:
            client.adapter.token = credential[0].decode("ascii")
            data = (await client.auth.token.lookup_self())["data"]
            return _Lease(float(data["ttl"]), renewable=bool(data.get("renewable")))
        role, secret = (part.decode("ascii") for part in credential)
        answer = await client.auth.approle.login(role_id=role, secret_id=secret, mount_point=approle.mount)
        auth = answer["auth"]
        return _Lease(float(auth["lease_duration"]), renewable=bool(auth.get("renewable")))

    def _read_credential(self) -> tuple[bytes, ...]:
        auth = self._settings.auth
        try:
            if isinstance(auth.approle, AppRoleSettings):
                return auth.approle.role_id_file.read_bytes().strip(), read_private(auth.approle.secret_id_file).strip()
            return (read_private(auth.token_file).strip(),) if auth.token_file else ()
        except SettingsInvalidError as error:
            raise SourceUnavailableError(error.detail) from None
        except OSError as error:
            message = f"the credential for the store can't be read: {error.strerror}"
            raise SourceUnavailableError(message) from None

    def _schedule_renewal(self, client: Any, lease: "_Lease") -> None:  # noqa: ANN401  As above.
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        if lease.renewable and lease.seconds:
            self._renewal = asyncio.create_task(self._renew(client, lease.seconds))

    async def _renew(self, client: Any, seconds: float) -> None:  # noqa: ANN401  As above.
        """Renew at two thirds of the life, with jitter; when the end comes near, the next request logs in anew."""
        while True:
            spread = random.uniform(1 - _JITTER, 1)  # noqa: S311  A pause is no secret.
            await asyncio.sleep(max(0.5, seconds * _RENEW_AT * spread))
            try:
                answer = await client.auth.token.renew_self()
                granted = float(answer["auth"]["lease_duration"])
            except (StoreAnswerError, SourceUnavailableError, KeyError, TypeError, ValueError):
                # Tried again in a third of what is left, which grows shorter and never becomes a storm.
                left = self._expires - self._clock.monotonic()
                if left <= 1:
                    return
                seconds = left / 2
                continue
            self._expires = self._clock.monotonic() + granted
            if granted < 1:
                return
            seconds = granted


class _Lease:
    """How long a token lives, and whether it can be renewed."""

    __slots__ = ("renewable", "seconds")

    def __init__(self, seconds: float, *, renewable: bool) -> None:
        self.seconds = seconds
        self.renewable = renewable


def _denied() -> UpstreamDeniedError:
    return UpstreamDeniedError("the store denies the broker this path; look at the broker's policy there")


def _answered_badly(error: StoreAnswerError) -> SourceUnavailableError:
    return SourceUnavailableError(f"the store answered {error.status}", retry_after=error.retry_after)
