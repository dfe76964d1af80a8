"""What holds for every route: a request id, every error as a problem document, refused hosts, counted answers."""

import itertools
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.typedefs import Handler, Middleware

from broker.clock import Clock
from broker.logs import EventLogger, error_fields
from broker.series.requests import RequestSeries
from broker.trace_context import CURRENT, HEADER, TraceContext, parse_traceparent
from broker.web.problems import OUTCOME, HttpRefusedError, WebCode, problem_of

REQUEST_ID_HEADER: Final = "X-Request-Id"
_REQUEST_ID: Final = web.RequestKey("request_id", str)
# Of the process on purpose: the ids of both listeners must differ, and nothing but that is read out of them.
_PROCESS: Final = secrets.token_hex(8)
_COUNT: Final = itertools.count()
_TRACE: Final = web.RequestKey("trace", TraceContext)
_LOG: Final = EventLogger("broker.request")


@dataclass(slots=True)
class RequestFacts:
    """What the line of a request tells beside its answer, filled in by its handler on the way.

    Attributes:
        identity: The peer's name, empty before it is known.
        body_seconds: Time in which the body arrived.
        statuses: How many references got which status.
        references: Canonical references with their status; kept only when the log shows debug lines.

    """

    identity: str = ""
    body_seconds: float = 0.0
    statuses: Mapping[str, int] = field(default_factory=dict)
    references: list[str] = field(default_factory=list)


_FACTS: Final = web.RequestKey("facts", RequestFacts)


def facts_of(request: web.Request) -> RequestFacts:
    """Return what is known of this request so far, for its handler to add to."""
    try:
        return request[_FACTS]
    except KeyError:
        facts = request[_FACTS] = RequestFacts()
        return facts


def logs_requests() -> bool:
    """Tell whether the log has a line for each request."""
    return _LOG.shows(logging.INFO)


def logs_references() -> bool:
    """Tell whether the log shows which references were asked for, which it does at debug alone."""
    return _LOG.shows(logging.DEBUG)


def request_id_of(request: web.BaseRequest) -> str:
    """Return the id that the broker gave to this request; a caller can't choose it."""
    try:
        return request[_REQUEST_ID]
    except KeyError:
        # Unique is enough, nobody has to guess it: random bytes for the process, and a count.
        known = request[_REQUEST_ID] = f"{_PROCESS}{next(_COUNT):016x}"
        return known


def trace_of(request: web.Request) -> TraceContext | None:
    """Return the trace that the request says it belongs to, None when it names none."""
    known = request.get(_TRACE)
    if known is not None or HEADER not in request.headers:
        return known
    return parse_traceparent(request.headers.getall(HEADER))


def adopt_trace(request: web.Request, trace: TraceContext | None) -> None:
    """Let the request belong to `trace`, whatever its header says."""
    if trace is not None:
        request[_TRACE] = trace


def route_of(request: web.Request) -> str:
    """Return the template of the request's route, `other` when there is none."""
    resource = request.match_info.route.resource
    return "other" if resource is None else resource.canonical


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The outermost middleware of the agents' listener.

    Attributes:
        clock: Times requests.
        metrics: Counts answers.
        allowed_hosts: The `Host` headers that are ours, None for any.

    """

    clock: Clock
    metrics: RequestSeries
    allowed_hosts: frozenset[str] | None

    def middleware(self) -> Middleware:
        """Return the middleware."""

        @web.middleware
        async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = self.clock.monotonic()
            # Always set: the requests of one connection share a task, and so its context.
            CURRENT.set(trace_of(request))
            response = await answered(request, handler, check=self._check)
            self._finish(request, response, self.clock.monotonic() - started)
            return response

        return edge

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

    def _finish(self, request: web.Request, response: web.StreamResponse, seconds: float) -> None:
        route = route_of(request)
        self.metrics.request(route=route, status=response.status, seconds=seconds)
        if not logs_requests():
            return
        # The template of the route, slugs, numbers and the identity that a certificate proved: no value, no reference.
        facts, trace = facts_of(request), CURRENT.get()
        _LOG.info(
            "request",
            request=request_id_of(request),
            identity=facts.identity,
            route=route,
            status=response.status,
            outcome=response.get(OUTCOME, "ok"),
            references=facts.statuses,
            milliseconds=round(seconds * 1000, 1),
            body_milliseconds=round(facts.body_seconds * 1000, 1),
            trace_id="" if trace is None else trace.trace_id,
        )
        if facts.references:
            _LOG.debug("references", request=request_id_of(request), references=facts.references)


@web.middleware
async def operations_edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error of the operations listener as a problem document."""
    return await answered(request, handler, check=_check_version)


def _check_version(request: web.Request) -> None:
    # Probes may be older than HTTP/1.1, and before 1.0 an answer had neither a status nor headers.
    if request.version < HttpVersion10:
        message = "speak HTTP/1.1"
        raise HttpRefusedError(WebCode.HTTP_VERSION, message, headers={"Connection": "close"})


async def answered(
    request: web.Request, handler: Handler, *, check: Callable[[web.Request], None] | None = None
) -> web.StreamResponse:
    """Return the handler's answer, or the problem document of whatever it, or `check` before it, raised."""
    try:
        if check is not None:
            check(request)
        response = await handler(request)
    except Exception as error:  # noqa: BLE001  The outermost handler: a bug is answered and named, never shown.
        instance = request_id_of(request)
        response = problem_of(error, instance=instance)
        if response.status == web.HTTPInternalServerError.status_code:
            # The text and the traceback of a bug may hold a value, so the type and the place have to do.
            _LOG.error("bug", request=instance, **error_fields(error))
    return response


async def finish(request: web.Request, response: web.StreamResponse) -> None:
    """Mark every answer of an application, also those that aiohttp makes by itself."""
    mark(request, response)


def mark(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Set what every answer carries."""
    headers = response.headers
    headers["Server"] = "broker"
    headers[REQUEST_ID_HEADER] = request_id_of(request)
    headers.setdefault("Cache-Control", "no-store")
    headers.setdefault("X-Content-Type-Options", "nosniff")
