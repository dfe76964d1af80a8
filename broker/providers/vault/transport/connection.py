"""One HTTP exchange with one address of a store: bounded in time and size, no redirect followed."""

import ssl
from typing import Any, Final

import aiohttp
from yarl import URL

from broker import written_json
from broker.clock import Clock
from broker.errors import SecretUnusableError, SourceUnavailableError
from broker.limits.byte_budget import UNCOUNTED, ByteBudget, Permit
from broker.providers.vault.exchange.failures import LostError, failure_of
from broker.providers.vault.exchange.request import StoreRequest, StoreResponse
from broker.providers.vault.exchange.retry_after import retry_after
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport.sessions import SessionPool, Sessions
from broker.trace_context import outgoing

_OK: Final = 200


class StoreConnection:
    """Send single requests, each to the address that it is given."""

    def __init__(self, *, settings: VaultSettings, sessions: SessionPool, clock: Clock, room: ByteBudget) -> None:
        """Keep the collaborators; large answers are in memory as far as `room` goes, and wait at the store else."""
        self._room = room
        self._settings = settings
        self._clock = clock
        self._sessions = sessions
        self._timeouts = {
            patience: aiohttp.ClientTimeout(
                total=limits.total_seconds,
                connect=limits.connect_seconds,
                sock_connect=limits.connect_seconds,
                # A time for each part says nothing more where the whole has to come as fast.
                sock_read=limits.read_seconds if limits.read_seconds < limits.total_seconds else None,
            )
            for patience, limits in settings.timeouts.items()
        }
        proxy = settings.proxy
        self._through_proxy = frozenset(place for place in settings.endpoints if proxy and proxy.serves(place))

    async def exchange(self, address: str, request: StoreRequest) -> StoreResponse:
        """Return the answer of `address`.

        Raises:
            WayError: There is none, or none that can be read; the subclass says what may have been sent.
            SourceUnavailableError: A file on the way can't be used.
            SecretUnusableError: The secret is larger than an answer may be.

        """
        sessions = await self._sessions.borrow()
        try:
            return await self._ask(sessions, address, request)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise failure_of(error) from None
        finally:
            await self._sessions.give_back(sessions)

    async def _ask(self, sessions: Sessions, address: str, request: StoreRequest) -> StoreResponse:
        proxied = address in self._through_proxy
        material = sessions.material
        context = material.identified if request.is_identified else material.common
        async with (sessions.proxied if proxied else sessions.direct).request(
            request.method,
            # The path is encoded as the store shall see it, so nothing may normalise it again.
            URL(address + request.path, encoded=True),
            headers={**request.headers, **outgoing()},
            params=request.params,
            json=request.body,
            allow_redirects=False,
            timeout=self._timeouts[request.patience],
            **_tls(context, address),
            **(self._tunnel(sessions) if proxied else {}),
        ) as answer:
            is_json = answer.content_type == "application/json"
            is_raw = answer.status == _OK and answer.content_type in (request.raw_types or ())
            text = await self._read(answer, request, is_secret=(is_json or is_raw) and request.operation == "read")
            return StoreResponse(
                status=answer.status,
                document=_parse(text) if is_json and text else None,
                retry_after=retry_after(answer.headers, now=self._clock.now()),
                location=answer.headers.get("Location", ""),
                index=answer.headers.get("X-Vault-Index", ""),
                content_type=answer.content_type,
                raw=text if is_raw else None,
            )

    def _tunnel(self, sessions: Sessions) -> dict[str, Any]:
        proxy = self._settings.proxy
        if proxy is None or sessions.proxied is not sessions.direct:
            # The connector of SOCKS knows its proxy by itself.
            return {}
        login = sessions.material.proxy_login
        return {"proxy": proxy.address, "proxy_headers": login.headers if login else None}

    async def _read(self, answer: aiohttp.ClientResponse, request: StoreRequest, *, is_secret: bool) -> bytes:
        """Return the whole answer.

        Raises:
            InFlightLimitError: It is large, and others are in the way for too long.
            SourceUnavailableError: It is too large.
            SecretUnusableError: It is a secret, and too large.

        """
        limit = self._settings.max_answer_bytes
        chunks: list[bytes] = []
        size = 0
        permit: Permit | None = None
        try:
            while not answer.content.at_eof():
                chunk = await answer.content.readany()
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit, is_secret=is_secret and answer.status == _OK)
                chunks.append(chunk)
                if permit is None and size > UNCOUNTED:
                    permit = await self._permit(answer, request)
            return b"".join(chunks)
        finally:
            # Nobody else runs before who called has read it.
            if permit is not None:
                permit.give_back()

    async def _permit(self, answer: aiohttp.ClientResponse, request: StoreRequest) -> Permit:
        """Wait for room for the whole answer; what has not been read yet waits in the connection."""
        limit = self._settings.max_answer_bytes
        size = limit if answer.content_length is None else min(answer.content_length, limit)
        seconds = self._settings.timeouts[request.patience].total_seconds
        return await self._room.take(None, min(size, self._room.most), seconds=seconds)


def _too_large(limit: int, *, is_secret: bool) -> SecretUnusableError | SourceUnavailableError:
    message = f"the store's answer is larger than {limit} bytes (providers.vault.max_answer_bytes)"
    return SecretUnusableError(message) if is_secret else SourceUnavailableError(message)


def _tls(context: ssl.SSLContext | None, address: str) -> dict[str, Any]:
    return {"ssl": context} if context is not None and address.startswith("https://") else {}


def _parse(text: bytes) -> Any:  # noqa: ANN401  JSON can be anything.
    try:
        return written_json.read(text)
    except (ValueError, RecursionError):
        message = "the store's answer is no valid JSON; is something else listening at providers.vault.address?"
        raise LostError(message) from None
