"""Leases at the store: minted once, under a token of their own where the settings name a role for it."""

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from hvac.utils import format_url

from broker.clock import Clock
from broker.errors import FetchError, MissingPart, SecretMissingError, SourceUnavailableError, UpstreamDeniedError
from broker.providers.base import Extension, Grip, Parent
from broker.providers.vault.adapter import make_client
from broker.providers.vault.engines.calls import EngineCall
from broker.providers.vault.exchange.answers import (
    BAD_REQUEST,
    FORBIDDEN,
    NO_CONTENT,
    StoreAnswerError,
    bad_answer,
    is_envelope,
    unavailable,
)
from broker.providers.vault.leasing.certificates import Certificate
from broker.providers.vault.own_token.lease_ends import LeaseEnds
from broker.providers.vault.own_token.login import StoreLogin
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport.transport import StoreTransport
from broker.secret import Encoding, Lease, SecretValue

T = TypeVar("T")
# A parent that nothing was minted under ends after this, longer than a mint without an answer is left alone; one with
# a lease outlives that lease by a little.
_UNUSED_SECONDS: Final = 90
_LONGER_SECONDS: Final = 60
# What rounding at the store may take from a lease that it did not cut.
_ROUNDING_SECONDS: Final = 2.0


class StoreLeases:
    """Mint, renew and revoke at one store."""

    def __init__(self, *, settings: VaultSettings, login: StoreLogin, transport: StoreTransport, clock: Clock) -> None:
        """Keep the collaborators."""
        self._settings = settings
        self._login = login
        self._transport = transport
        self._ends = LeaseEnds(clock=clock)

    async def prepare(self) -> Parent:
        """Return a token that one lease shall hang on, or an empty parent where the settings name no role for it.

        Raises:
            FetchError: The store does not give one.

        """
        role = self._settings.lease_token_role
        if role is None:
            return Parent()
        path = format_url("/v1/auth/token/create/{}", role)
        body = {"ttl": f"{_UNUSED_SECONDS}s", "renewable": True, "display_name": "broker-lease"}
        try:
            document = await self._call(lambda client: client.adapter.post(path, json=body))
            auth = document["auth"]
            if not auth["orphan"]:
                message = "the token role of the leases gives tokens that end with the broker's own; set orphan=true"
                raise SourceUnavailableError(message)
            key = SecretValue(str(auth["client_token"]).encode(), encoding=Encoding.TEXT)
            return Parent(accessor=str(auth["accessor"]), key=key)
        except StoreAnswerError as error:
            if error.status != BAD_REQUEST:
                raise unavailable(error) from None
            message = "the store has no such token role, or it gives no token; look at providers.vault.lease_token_role"
            raise SourceUnavailableError(message, words=error.words) from None
        except (KeyError, TypeError):
            raise bad_answer() from None

    async def send(self, call: EngineCall, parent: Parent) -> dict[str, Any]:
        """Return the answer to a request that mints, which is sent once.

        Raises:
            StoreAnswerError: The store answered with an error other than a denial.
            FetchError: It denies, or there is no answer.

        """
        if parent.key is None:
            return await self._call(lambda client: _ask(client, call))
        token = parent.key.reveal().decode()
        client = make_client(settings=self._settings, transport=self._transport, token=token)
        try:
            document = await _ask(client, call)
        except StoreAnswerError as error:
            if error.status == FORBIDDEN:
                message = "the store denies this to the tokens of the lease role; look at its allowed_policies there"
                raise UpstreamDeniedError(message, words=error.words) from None
            raise
        return _document(document)

    async def lease_of(self, document: dict[str, Any], parent: Parent) -> Lease | None:
        """Return the lease in the answer to a request that mints, once its parent lives as long as it does.

        Raises:
            SourceUnavailableError: The answer is not the store's.

        """
        try:
            handle = str(document.get("lease_id") or "")
            seconds, renewable = float(document.get("lease_duration") or 0), bool(document.get("renewable"))
        except (TypeError, ValueError):
            raise bad_answer() from None
        if not handle:
            return None
        if not parent.accessor:
            seconds = self._ends.begin(handle, self._login.token_in_use(), seconds=seconds)
            return Lease(handle=handle, seconds=seconds, renewable=renewable)
        try:
            seconds = min(seconds, await self._extend(parent.accessor, seconds))
        except (FetchError, StoreAnswerError):
            # It dies with its parent then, unless the next renewal comes in time.
            seconds = min(seconds, _UNUSED_SECONDS / 2)
            renewable = True
        return Lease(handle=handle, seconds=seconds, renewable=renewable)

    async def renew(self, grip: Grip, *, seconds: float) -> Extension:
        """Ask for `seconds` of life. Raises: as `Leasing.renew`."""
        body = {"lease_id": grip.handle, "increment": round(seconds)}
        try:
            parent = await self._extend(grip.parent, seconds) if grip.parent else float("inf")
            document = await self._call(
                lambda client: client.adapter.put("/v1/sys/leases/renew", json=body, repeatable=True)
            )
            given = float(document["lease_duration"])
        except StoreAnswerError as error:
            if error.status not in {BAD_REQUEST, FORBIDDEN}:
                raise unavailable(error) from None
            # A refusal says little: the role may be gone, or the database away, while the lease lives on.
            given = await self.look_up(grip)
            message = "the store does not renew the lease now"
            raise SourceUnavailableError(message, retry_after=min(given / 3, 30.0), words=error.words) from None
        except (KeyError, TypeError, ValueError):
            raise bad_answer() from None
        lives = min(self._ends.extend(grip.handle, seconds=given), parent)
        # What hangs on a token that is renewed no more has its last life, too.
        capped = min(given, parent) < seconds - _ROUNDING_SECONDS or self._ends.is_last(grip.handle)
        return Extension(lives, capped=capped)

    async def revoke(self, grip: Grip) -> None:
        """Return when lease and parent are gone. Raises: as `Leasing.revoke`."""
        self._ends.forget(grip.handle)
        certificate = Certificate.held(grip.handle)
        if certificate is not None:
            await certificate.revoke(self._call)
            return
        try:
            if grip.handle:
                body = {"lease_id": grip.handle, "sync": True}
                await self._call(lambda client: client.adapter.put("/v1/sys/leases/revoke", json=body, repeatable=True))
            if grip.parent:
                accessor = {"accessor": grip.parent}
                await self._call(
                    lambda client: client.adapter.post("/v1/auth/token/revoke-accessor", json=accessor, repeatable=True)
                )
        except StoreAnswerError as error:
            if error.status != BAD_REQUEST:
                raise unavailable(error) from None
            message = "the store can't revoke the lease now; what it opens may be away"
            raise SourceUnavailableError(message, words=error.words) from None

    async def look_up(self, grip: Grip) -> float:
        """Return the seconds that the lease has left. Raises: as `Leasing.look_up`."""
        certificate = Certificate.held(grip.handle)
        if certificate is not None:
            await certificate.check(self._call)
            # Its end stands in itself, and only what comes before that is news.
            return math.inf
        body = {"lease_id": grip.handle}
        try:
            document = await self._call(
                lambda client: client.adapter.put("/v1/sys/leases/lookup", json=body, repeatable=True)
            )
            left = float(document["data"]["ttl"])
        except StoreAnswerError as error:
            if error.status != BAD_REQUEST:
                raise unavailable(error) from None
            left = 0.0
        except (KeyError, TypeError, ValueError):
            raise bad_answer() from None
        if left <= 0:
            self._ends.forget(grip.handle)
            message = "the lease is gone"
            raise SecretMissingError(message, part=MissingPart.DELETED)
        return left

    async def lives(self, handle: str) -> bool:
        """Tell whether what has that handle is not gone. Raises: FetchError, the store can't tell."""
        try:
            await self.look_up(Grip(handle=handle, parent=""))
        except SecretMissingError:
            return False
        return True

    async def _extend(self, accessor: str, seconds: float) -> float:
        """Let the parent live a little longer than `seconds`, and return how long the lease may."""
        body = {"accessor": accessor, "increment": f"{round(seconds) + _LONGER_SECONDS}s"}
        document = await self._call(
            lambda client: client.adapter.post("/v1/auth/token/renew-accessor", json=body, repeatable=True)
        )
        try:
            return float(document["auth"]["lease_duration"])
        except (KeyError, TypeError, ValueError):
            raise bad_answer() from None

    async def _call(self, ask: Callable[[Any], Awaitable[Any]]) -> dict[str, Any]:
        return _document(await self._login.call(ask))


async def _ask(client: Any, call: EngineCall) -> Any:  # noqa: ANN401  hvac has no types.
    way = {"mount": call.mount, "raw_types": call.raw_types}
    if call.posted:
        return await client.adapter.post(call.path, json=dict(call.parameters), **way)
    return await client.adapter.get(call.path, params=dict(call.parameters) or None, **way)


def _document(answer: Any) -> dict[str, Any]:  # noqa: ANN401  JSON can be anything.
    """Return the JSON of an answer, empty for one without a body, which comes here as its status."""
    if answer == NO_CONTENT:
        return {}
    # What somebody else answers in the store's place must not be taken for a lease that is gone.
    if not is_envelope(answer):
        raise bad_answer()
    return dict(answer)
