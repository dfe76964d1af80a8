"""Traces for OpenTelemetry, sent by OTLP over HTTP: an extra that nothing of the broker imports unless it is set.

A span has names, counts and outcomes; never a value, and a reference only while the log shows them too. The
SDK's own thread exports in batches and drops what a receiver does not take, so no agent ever waits for one.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from broker.audit.event import AuditEvent, EventSink
from broker.config import TracingSettings
from broker.errors import BrokerError
from broker.escape import clean
from broker.finding import Finding, FoundError
from broker.providers.base import Provider
from broker.reference import Source
from broker.secret import Reading
from broker.trace_context import CURRENT, TraceContext
from broker.web.middleware import adopt_trace, facts_of, logs_references, request_id_of, route_of, trace_of
from broker.web.problems import OUTCOME

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind

    _Spans = Callable[[str], AbstractContextManager[Span]]

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"})
_SERVER_ERROR: Final = 500
_EXPORT_SECONDS: Final = 5.0


class Tracing:
    """Make spans of the requests, the reads and the audit, and send them away."""

    def __init__(self, *, settings: TracingSettings, version: str) -> None:
        """Start the SDK's thread.

        Raises:
            FoundError: The extra is not installed.

        """
        require_extra(settings)
        # The one place that imports them, so that a broker without traces does not pay for them.
        from opentelemetry import context, trace  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415

        self._api = trace
        self._no_context = context.Context()
        self._flush_seconds = settings.flush_seconds
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "logflux-broker", "service.version": version}),
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=settings.endpoint, timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("logflux-broker", version)

    def middleware(self) -> Middleware:
        """Return what makes a span of each request; it stands outside of everything else."""

        @web.middleware
        async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
            CURRENT.set(trace_of(request))
            # Whatever a peer may have written as a method is no attribute.
            method = request.method if request.method in _METHODS else "_OTHER"
            with self._span(f"{method} {route_of(request)}", kind=self._api.SpanKind.SERVER) as span:
                adopt_trace(request, CURRENT.get())
                response = await handler(request)
                self._describe(span, request, method, response)
            return response

        return traced

    def providers(self, providers: Mapping[str, Provider]) -> dict[str, Provider]:
        """Return `providers` with a span around each read."""
        return {scheme: _TracedProvider(scheme, provider, self._span) for scheme, provider in providers.items()}

    def trail(self, trail: EventSink) -> EventSink:
        """Return `trail` with a span around each wait for durability."""
        return _TracedTrail(trail, self._span)

    async def aclose(self) -> None:
        """Send what is left, for as long as the settings say; what is left then is dropped."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            self._provider.shutdown()
            # The loop may have stopped waiting, and be closed.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

        # A daemon of its own: a thread of a pool would be waited for at the exit of the process.
        threading.Thread(target=end, name="trace-flush", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._flush_seconds):
                await done.wait()

    def _describe(self, span: "Span", request: web.Request, method: str, response: web.StreamResponse) -> None:
        facts = facts_of(request)
        span.set_attributes(
            {
                "http.request.method": method,
                "http.route": route_of(request),
                "http.response.status_code": response.status,
                "broker.request_id": request_id_of(request),
                "broker.identity": clean(facts.identity),
                **{f"broker.references.{status}": count for status, count in facts.statuses.items()},
            }
        )
        if (outcome := response.get(OUTCOME)) is not None:
            span.set_attribute("error.type", outcome)
        if response.status >= _SERVER_ERROR:
            span.set_status(self._api.StatusCode.ERROR)

    @contextmanager
    def _span(self, name: str, *, kind: "SpanKind | None" = None) -> "Iterator[Span]":
        """Run the block in a span below the current place, which it becomes."""
        api = self._api
        span = self._tracer.start_span(
            name,
            context=self._parent(CURRENT.get()),
            kind=api.SpanKind.INTERNAL if kind is None else kind,
            record_exception=False,
            set_status_on_exception=False,
        )
        place = span.get_span_context()
        token = CURRENT.set(
            TraceContext(
                api.format_trace_id(place.trace_id), api.format_span_id(place.span_id), place.trace_flags.sampled
            )
        )
        try:
            yield span
        except BaseException as error:
            # The type or the code alone: the text of a foreign exception may hold anything.
            span.set_attribute("error.type", error.code if isinstance(error, BrokerError) else type(error).__name__)
            span.set_status(api.StatusCode.ERROR)
            raise
        finally:
            CURRENT.reset(token)
            span.end()

    def _parent(self, place: TraceContext | None) -> "Context":
        # An empty context and never the SDK's current one, which the broker does not use.
        if place is None:
            return self._no_context
        remote = self._api.SpanContext(
            trace_id=int(place.trace_id, 16),
            span_id=int(place.parent_id, 16),
            is_remote=True,
            trace_flags=self._api.TraceFlags(int(place.sampled)),
        )
        return self._api.set_span_in_context(self._api.NonRecordingSpan(remote), self._no_context)


class _TracedProvider:
    """A provider whose reads are spans."""

    def __init__(self, scheme: str, provider: Provider, span: "_Spans") -> None:
        self._scheme = scheme
        self._provider = provider
        self._span = span
        self.check = provider.check
        self.ping = provider.ping
        self.aclose = provider.aclose

    async def fetch(self, source: Source) -> Reading:
        """Read as the provider does. Raises: FetchError."""
        with self._span(f"fetch {self._scheme}") as span:
            span.set_attribute("broker.provider", self._scheme)
            if logs_references():
                span.set_attribute("broker.reference", clean(f"{source.scheme}:{source.path}"))
            return await self._provider.fetch(source)


class _TracedTrail:
    """A trail whose waits are spans."""

    def __init__(self, trail: EventSink, span: "_Spans") -> None:
        self._trail = trail
        self._span = span

    async def append(self, event: AuditEvent, /) -> None:
        """Return when `event` is durable. Raises: AuditUnavailableError."""
        with self._span("audit") as span:
            span.set_attribute("broker.event", event.kind.value)
            await self._trail.append(event)


def require_extra(settings: TracingSettings) -> None:
    """Return when the traces that `settings` want can be made. Raises: FoundError."""
    if settings.endpoint is None:
        return
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: PLC0415
        import opentelemetry.sdk  # noqa: F401, PLC0415
    except ImportError:
        why = "the extra `otel` is not installed, and traces need it"
        fix = "run: pip install 'logflux-broker[otel]'"
        raise FoundError(Finding(code="extra_missing", where="tracing.endpoint", why=why, fix=fix)) from None
