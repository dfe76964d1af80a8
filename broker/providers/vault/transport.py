"""One pooled aiohttp session to one store: within the budget, bounded in time and size, no redirect followed."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from yarl import URL

from broker.clock import Clock
from broker.errors import SecretUnusableError, SourceUnavailableError
from broker.providers.base import UpstreamObserver
from broker.providers.vault.budget import Budget
from broker.providers.vault.flight import SingleFlight
from broker.providers.vault.settings import VaultSettings

_CHUNK_BYTES: Final = 65_536
_OK: Final = 200
_OPERATIONS: Final = (
    ("/v1/auth/token/renew-self", "renew"),
    ("/v1/auth/token/lookup-self", "lookup"),
    ("/v1/auth/", "login"),
    ("/v1/sys/internal/ui/mounts/", "mounts"),
    ("/v1/sys/health", "health"),
)
# What keeps the broker's own access alive: may use the reserve of the budget and of the connections.
_RESERVED: Final = frozenset({"renew", "lookup", "login", "health"})
_OUTCOMES: Final = {200: "ok", 204: "ok", 400: "invalid", 403: "denied", 404: "missing"}


class _LostError(SourceUnavailableError):
    """The connection ended before the whole answer was there; a read may be sent once more."""


# The first that fits counts: aiohttp's classes are each other's subclasses.
_FAILURES: Final[tuple[tuple[type[BaseException], type[SourceUnavailableError], str], ...]] = (
    (
        aiohttp.ClientConnectorCertificateError,
        SourceUnavailableError,
        "the store's certificate is not trusted; look at providers.vault.ca_file",
    ),
    (
        aiohttp.ClientSSLError,
        SourceUnavailableError,
        "the TLS handshake with the store fails; does it speak TLS at that port?",
    ),
    (aiohttp.ClientConnectorDNSError, SourceUnavailableError, "the store's name can't be resolved"),
    (
        aiohttp.ClientConnectorError,
        SourceUnavailableError,
        "the store can't be reached: nothing listens there, or a network is down",
    ),
    (TimeoutError, SourceUnavailableError, "the store does not answer in time"),
    (aiohttp.ClientPayloadError, _LostError, "the store's answer broke off"),
    (aiohttp.ServerDisconnectedError, _LostError, "the connection to the store was lost"),
    (OSError, _LostError, "the connection to the store was lost"),
    (
        aiohttp.ClientResponseError,
        SourceUnavailableError,
        "the answer is no HTTP; is something else listening at providers.vault.address?",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """One request, as hvac or the provider wants it sent; `path` is percent-encoded."""

    method: str
    path: str
    headers: Mapping[str, str]
    params: Mapping[str, str] | None = None
    body: object = None

    @property
    def operation(self) -> str:
        """Return the name that metrics give to this request."""
        return next((name for prefix, name in _OPERATIONS if self.path.startswith(prefix)), "read")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreResponse:
    """Status, JSON (None when there is none) and `Retry-After` of one answer."""

    status: int
    document: Any
    retry_after: float | None


class StoreTransport:
    """Send requests to one store."""

    def __init__(self, *, settings: VaultSettings, clock: Clock, observer: UpstreamObserver) -> None:
        """Keep the settings; the session is made in the running loop, at the first request."""
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self._budget = Budget(per_second=settings.requests_per_second, clock=clock)
        # One connection is left for logins and renewals, however many reads hang.
        self._slots = asyncio.Semaphore(max(1, settings.max_connections - 1))
        self._flights = SingleFlight()
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._throttled = 0
        observer.upstream_budget(provider="vault", per_second=settings.requests_per_second, throttled=0, refused=0)

    async def send(self, request: StoreRequest) -> StoreResponse:
        """Return the answer to `request`; a GET whose connection broke is sent once more.

        Raises:
            SourceUnavailableError: There is no answer, or none that can be read.
            SecretUnusableError: The secret is larger than an answer may be.

        """
        try:
            return await self._send_once(request)
        except _LostError:
            if request.method != "GET":
                raise
        return await self._send_once(request)

    async def aclose(self) -> None:
        """Close the session for good; a second call does nothing."""
        self._closed = True
        await self._flights.aclose()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _send_once(self, request: StoreRequest) -> StoreResponse:
        operation = request.operation
        async with self._turn(reserved=operation in _RESERVED):
            began = self._clock.monotonic()
            outcome = "unavailable"
            try:
                response = await self._exchange(request)
                outcome = _OUTCOMES.get(response.status, "unavailable")
            except SecretUnusableError:
                outcome = "invalid"
                raise
            finally:
                seconds = self._clock.monotonic() - began
                self._observer.upstream_request(provider="vault", operation=operation, outcome=outcome, seconds=seconds)
        return response

    @asynccontextmanager
    async def _turn(self, *, reserved: bool) -> AsyncIterator[None]:
        """Wait for a connection and for the budget, at most as long as one request may take."""
        try:
            async with (
                asyncio.timeout(self._settings.total_seconds) as limit,
                nullcontext() if reserved else self._slots,
            ):
                await self._budget.take(reserved=reserved)
                self._count_budget()
                limit.reschedule(None)
                yield
        except TimeoutError:
            self._count_budget(refused=1)
            message = "more reads wait for the store than the broker's budget lets through in time"
            raise SourceUnavailableError(message, retry_after=1.0) from None

    def _count_budget(self, *, refused: int = 0) -> None:
        throttled, self._throttled = self._budget.throttled - self._throttled, self._budget.throttled
        if throttled or refused:
            rate = self._settings.requests_per_second
            self._observer.upstream_budget(provider="vault", per_second=rate, throttled=throttled, refused=refused)

    async def _exchange(self, request: StoreRequest) -> StoreResponse:
        session = await self._open_session()
        try:
            async with session.request(
                request.method,
                # The path is encoded as the store shall see it, so nothing may normalise it again.
                URL(self._settings.address + request.path, encoded=True),
                headers=request.headers,
                params=request.params,
                json=request.body,
                allow_redirects=False,
            ) as answer:
                is_json = answer.content_type == "application/json"
                text = await self._read(answer, is_secret=is_json and request.operation == "read")
                after = answer.headers.get("Retry-After", "")
                return StoreResponse(
                    status=answer.status,
                    document=_parse(text) if is_json and text else None,
                    retry_after=float(after) if after.isdecimal() and after.isascii() else None,
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _failure(error) from None

    async def _read(self, answer: aiohttp.ClientResponse, *, is_secret: bool) -> bytes:
        limit = self._settings.max_answer_bytes
        chunks: list[bytes] = []
        size = 0
        async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
            size += len(chunk)
            if size > limit:
                message = f"the store's answer is larger than {limit} bytes (providers.vault.max_answer_bytes)"
                if is_secret and answer.status == _OK:
                    raise SecretUnusableError(message)
                raise SourceUnavailableError(message)
            chunks.append(chunk)
        return b"".join(chunks)

    async def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None and not self._closed:
            await self._flights.run("session", self._make_session)
        if self._session is None or self._closed:
            message = "the broker has closed its connection to the store"
            raise SourceUnavailableError(message)
        return self._session

    async def _make_session(self) -> None:
        settings = self._settings
        # Reads the authorities from disk.
        context = await asyncio.to_thread(_tls_context, settings) if settings.address.startswith("https://") else True
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=settings.max_connections, ssl=context),
            timeout=aiohttp.ClientTimeout(
                total=settings.total_seconds,
                connect=settings.connect_seconds,
                sock_connect=settings.connect_seconds,
                sock_read=settings.total_seconds,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        # aiohttp would send a GET a second time by itself when a connection breaks; retries are ours to count.
        session._retry_connection = False  # noqa: SLF001  There is no public switch.
        self._session = session


def _tls_context(settings: VaultSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    except (OSError, ValueError) as error:
        # An `ssl.SSLError` is an `OSError`, whose text would name places in OpenSSL's source.
        reason = "holds no PEM certificate" if isinstance(error, ssl.SSLError | ValueError) else error.strerror
        message = f"providers.vault.ca_file: {reason}"
        raise SourceUnavailableError(message) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _parse(text: bytes) -> Any:  # noqa: ANN401  JSON can be anything.
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        message = "the store's answer is no valid JSON; is something else listening at providers.vault.address?"
        raise SourceUnavailableError(message) from None


def _failure(error: BaseException) -> SourceUnavailableError:
    """Return what happened in fixed words: the text of a foreign error may name hosts and paths."""
    for kind, made, text in _FAILURES:
        if isinstance(error, kind):
            return made(text)
    return SourceUnavailableError("the request to the store failed")
