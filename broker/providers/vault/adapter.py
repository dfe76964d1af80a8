"""hvac's API over aiohttp: one pooled session, bounded answers, no redirect followed, no foreign error text.

`hvac.Client(adapter=...)` calls `request` and returns what it returns, so a coroutine function makes hvac's
methods awaitable. Only the methods that `provider.py` and `login.py` call were tried that way.
"""

import asyncio
import json
import ssl
from typing import Any, Final

import aiohttp
import hvac.adapters

from broker.clock import Clock
from broker.errors import SourceUnavailableError
from broker.providers.base import UpstreamObserver
from broker.providers.vault.budget import Budget
from broker.providers.vault.settings import VaultSettings

_REDIRECTS: Final = range(300, 400)
_OPERATIONS: Final = (
    ("/v1/auth/token/renew-self", "renew"),
    ("/v1/auth/token/lookup-self", "lookup"),
    ("/v1/sys/internal/ui/mounts", "mounts"),
    ("/v1/sys/health", "health"),
    ("/v1/auth/", "login"),
)
_OUTCOMES: Final = {200: "ok", 204: "ok", 400: "invalid", 403: "denied", 404: "missing"}


class StoreAnswerError(Exception):
    """The store answered with an error status; `document` is its JSON, or None when it sent none."""

    def __init__(self, status: int, document: Any, retry_after: float | None) -> None:  # noqa: ANN401  JSON can be anything.
        """Keep the answer; the text of this exception names the status alone."""
        super().__init__(f"the store answered {status}")
        self.status = status
        self.document = document
        self.retry_after = retry_after

    @property
    def errors(self) -> tuple[str, ...]:
        """Return the store's `errors`, empty when it sent none."""
        found = self.document.get("errors") if isinstance(self.document, dict) else None
        return tuple(str(text) for text in found) if isinstance(found, list) else ()


class _ConnectionLostError(SourceUnavailableError):
    """A connection ended before its answer."""


class StoreTransport:
    """One session to one store, with its budget and its limits."""

    def __init__(self, *, settings: VaultSettings, clock: Clock, observer: UpstreamObserver) -> None:
        """Keep the settings; the session is made in the running loop, at the first request."""
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self._budget = Budget(per_second=settings.requests_per_second, clock=clock)
        self._ssl = _tls_context(settings)
        self._session: aiohttp.ClientSession | None = None
        self._throttled = 0
        observer.upstream_budget(provider="vault", per_second=settings.requests_per_second, throttled=0)

    async def send(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str],
        params: dict[str, str] | None,
        body: object,
    ) -> tuple[int, Any, float | None]:
        """Return status, JSON (None when there is none) and `Retry-After` of one request.

        Raises:
            SourceUnavailableError: There is no answer, or none that can be read.

        """
        operation = next((name for prefix, name in _OPERATIONS if path.startswith(prefix)), "read")
        await self._budget.take(reserved=operation != "read")
        throttled, self._throttled = self._budget.throttled - self._throttled, self._budget.throttled
        if throttled:
            self._observer.upstream_budget(
                provider="vault", per_second=self._settings.requests_per_second, throttled=throttled
            )
        began = self._clock.monotonic()
        outcome = "unavailable"
        try:
            try:
                status, document, retry_after = await self._exchange(method, path, headers, params, body)
            except _ConnectionLostError:
                # A kept connection may be closed by the other side just as it is used. A read can be sent again, once.
                if method.upper() != "GET":
                    raise
                status, document, retry_after = await self._exchange(method, path, headers, params, body)
            outcome = _OUTCOMES.get(status, "unavailable")
        finally:
            self._observer.upstream_request(
                provider="vault", operation=operation, outcome=outcome, seconds=self._clock.monotonic() - began
            )
        return status, document, retry_after

    async def _exchange(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        params: dict[str, str] | None,
        body: object,
    ) -> tuple[int, Any, float | None]:
        try:
            async with self._client().request(
                method.upper(),
                self._settings.address + path,
                headers=headers,
                params=params,
                json=body,
                allow_redirects=False,
            ) as answer:
                text = await self._read(answer)
                after = answer.headers.get("Retry-After", "")
                document = _parse(text) if answer.content_type == "application/json" else None
                return answer.status, document, float(after) if after.isdecimal() else None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            lost = isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError)
            kind = _ConnectionLostError if lost and not isinstance(error, aiohttp.ClientConnectorError) else None
            raise (kind or SourceUnavailableError)(_what_failed(error)) from None

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        chunks, size = [], 0
        async for chunk in answer.content.iter_chunked(65_536):
            size += len(chunk)
            if size > self._settings.max_answer_bytes:
                message = f"the store's answer is larger than {self._settings.max_answer_bytes} bytes"
                raise SourceUnavailableError(message)
            chunks.append(chunk)
        return b"".join(chunks)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._settings.max_connections, ssl=self._ssl),
                timeout=aiohttp.ClientTimeout(
                    total=self._settings.total_seconds, connect=self._settings.connect_seconds
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
            # aiohttp would send a GET a second time by itself when a connection breaks; retries are ours to count.
            self._session._retry_connection = False  # noqa: SLF001  There is no public switch.
        return self._session

    async def aclose(self) -> None:
        """Close the session; a second call does nothing."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class AsyncAdapter(hvac.adapters.Adapter):  # type: ignore[misc]  # hvac has no types.
    """Let hvac build requests, and send them through a `StoreTransport`."""

    def __init__(self, *args: Any, transport: StoreTransport, **kwargs: Any) -> None:  # noqa: ANN401  hvac's own signature.
        """Keep the transport beside what hvac keeps."""
        super().__init__(*args, **kwargs)
        self._transport = transport

    def get_login_token(self, response: Any) -> str:  # noqa: ANN401  hvac's own signature.
        """Return the token of a login's answer."""
        return str(response["auth"]["client_token"])

    async def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        raise_exception: bool = True,  # noqa: FBT001, FBT002  hvac's own signature.
        **kwargs: Any,  # noqa: ANN401  As above.
    ) -> Any:  # noqa: ANN401  As above.
        """Return the JSON of the answer, or its status when it has none.

        Raises:
            StoreAnswerError: The status is 300 or more.
            SourceUnavailableError: There is no answer that can be read.

        """
        del raise_exception
        send = {"X-Vault-Request": "true", "Accept-Encoding": "identity", **(headers or {})}
        if self.token:
            send["X-Vault-Token"] = self.token
        if self.namespace:
            send["X-Vault-Namespace"] = self.namespace
        path = url if url.startswith("/") else f"/{url}"
        status, document, retry_after = await self._transport.send(
            method, path, headers=send, params=kwargs.get("params"), body=kwargs.get("json")
        )
        if status in _REDIRECTS:
            message = "the store redirects to another address; name the active node or a load balancer"
            raise SourceUnavailableError(message)
        if status >= 400:  # noqa: PLR2004  Where HTTP's errors begin.
            raise StoreAnswerError(status, document, retry_after)
        return document if document is not None else status

    async def login(self, url: str, use_token: bool = True, **kwargs: Any) -> Any:  # noqa: ANN401, FBT001, FBT002  hvac's own signature.
        """Return the answer of a login, and use its token from now on when `use_token`."""
        document = await self.post(url, **kwargs)
        if use_token:
            self.token = self.get_login_token(document)
        return document


def _tls_context(settings: VaultSettings) -> ssl.SSLContext | bool:
    if not settings.address.startswith("https://"):
        return True
    context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _parse(text: bytes) -> Any:  # noqa: ANN401  JSON can be anything.
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        message = "the store's answer is no JSON; is something else listening there?"
        raise SourceUnavailableError(message) from None


def _what_failed(error: BaseException) -> str:
    """Return what happened in fixed words: the text of a foreign error may name hosts and paths."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "the store's certificate is not trusted; look at providers.vault.ca_file"
        case aiohttp.ClientConnectorDNSError():
            return "the store's name can't be resolved"
        case aiohttp.ClientConnectorError():
            return "the store can't be reached"
        case asyncio.TimeoutError():
            return "the store does not answer in time"
        case aiohttp.ClientPayloadError():
            return "the store's answer broke off"
        case _:
            return "the connection to the store was lost"
