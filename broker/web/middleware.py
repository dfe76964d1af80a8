"""What holds for every route: a request id, every error as a problem document, refused hosts, counted answers."""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.typedefs import Handler, Middleware

from broker.clock import Clock
from broker.metrics import Metrics
from broker.web.problems import HttpRefusedError, WebCode, problem_of

REQUEST_ID_HEADER: Final = "X-Request-Id"
_REQUEST_ID: Final = web.RequestKey("request_id", str)
_LOG: Final = logging.getLogger("broker.request")


def request_id_of(request: web.Request) -> str:
    """Return the id that the broker gave to this request; a caller can't choose it."""
    known = request.get(_REQUEST_ID)
    if known is None:
        known = request[_REQUEST_ID] = secrets.token_hex(16)
    return known


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The outermost middleware of the agents' listener.

    Attributes:
        clock: Times requests.
        metrics: Counts answers.
        allowed_hosts: The `Host` headers that are ours, None for any.

    """

    clock: Clock
    metrics: Metrics
    allowed_hosts: frozenset[str] | None

    def middleware(self) -> Middleware:
        """Return the middleware."""

        @web.middleware
        async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = self.clock.monotonic()
            response = await answered(request, self._checked(handler))
            self._count(request, response.status, self.clock.monotonic() - started)
            return response

        return edge

    def _checked(self, handler: Handler) -> Handler:
        async def checked(request: web.Request) -> web.StreamResponse:
            self._check(request)
            return await handler(request)

        return checked

    def _check(self, request: web.Request) -> None:
        if request.version < HttpVersion11:
            message = "speak HTTP/1.1"
            raise HttpRefusedError(WebCode.HTTP_VERSION, message, headers={"Connection": "close"})
        # The absolute form names a host of its own, which no header check sees.
        hosts = self.allowed_hosts
        if not request.raw_path.startswith("/") or (
            hosts is not None and request.headers.get("Host", "").lower() not in hosts
        ):
            message = "the Host header names no host of this broker"
            raise HttpRefusedError(WebCode.HOST_UNKNOWN, message)
        if "?" in request.raw_path:
            message = "send references and tokens in the body and the header, never in the URL, where logs keep them"
            raise HttpRefusedError(WebCode.QUERY_UNEXPECTED, message)

    def _count(self, request: web.Request, status: int, seconds: float) -> None:
        resource = request.match_info.route.resource
        route = "other" if resource is None else resource.canonical
        self.metrics.request(route=route, status=status, seconds=seconds)
        if _LOG.isEnabledFor(logging.INFO):
            # The line has the template of the route, the id and numbers: nothing that a caller wrote.
            _LOG.info(
                "request id=%s route=%s status=%d milliseconds=%.1f",
                request_id_of(request),
                route,
                status,
                seconds * 1000,
            )


@web.middleware
async def operations_edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error of the operations listener as a problem document."""
    return await answered(request, handler)


async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return the handler's answer, or the problem document of whatever it raised."""
    try:
        response = await handler(request)
    except Exception as error:  # noqa: BLE001  The outermost handler: a bug is answered and named, never shown.
        instance = request_id_of(request)
        response = problem_of(error, instance=instance)
        if response.status == web.HTTPInternalServerError.status_code:
            # The text and the traceback of a bug may hold a value, so the type and the place have to do.
            _LOG.error("bug id=%s type=%s at=%s", instance, type(error).__name__, _place(error))
    return response


async def finish(request: web.Request, response: web.StreamResponse) -> None:
    """Set what every answer carries, also those that aiohttp makes by itself."""
    headers = response.headers
    headers["Server"] = "broker"
    headers[REQUEST_ID_HEADER] = request_id_of(request)
    headers.setdefault("Cache-Control", "no-store")
    headers.setdefault("X-Content-Type-Options", "nosniff")


def json_headers() -> Mapping[str, str]:
    """Return the headers of a JSON answer that must not be kept."""
    return {"Content-Type": "application/json", "Cache-Control": "no-store"}


def _place(error: BaseException) -> str:
    """Return the innermost file and line of `error`, without anything that its frames hold."""
    trace = error.__traceback__
    place = "unknown"
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
