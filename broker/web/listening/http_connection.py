"""What aiohttp answers by itself, answered as everything else is: as a problem document, and without an echo.

A message that its parser refuses never becomes a request, so no middleware sees it. aiohttp answers with the
parser's text, which quotes what was sent, and that may be a token. An `Expect` header is answered before any
middleware too, and quoted.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from broker.logs import EventLogger, error_fields
from broker.web.claims import claim_of
from broker.web.middleware import mark, request_id_of
from broker.web.problems import BUG, OUTCOME, WebCode, problem, problem_of

_LOG: Final = EventLogger("broker.request")
_MALFORMED: Final = (
    "a character, a line or a length of this message is none that HTTP/1.1 allows here, or two of its headers "
    "contradict each other; the connection is closed"
)
# Written bytes that a connection may keep until its agent takes them, before it is asked to wait.
_UNTAKEN_BYTES: Final = 64 * 1024
_TOO_LONG: Final = "the request line and each header may have 8,190 bytes; the connection is closed"


class ConnectionSeries(Protocol):
    """Counts what becomes of answers."""

    def request(self, *, route: str, status: int, seconds: float) -> None:
        """Count one HTTP answer."""
        ...

    def answer_cut(self) -> None:
        """Count an answer that was not taken in time."""
        ...


class HttpConnection(web.RequestHandler):
    """aiohttp's protocol of one connection, which quotes nothing that was sent, in no answer and in no line.

    An agent has a bounded time to take an answer. It begins when the buffers are full for the first time, so that an
    answer that fits into them, as nearly every one does, costs no timer.
    """

    __slots__ = ("_cut", "_is_answering", "_metrics", "_write_seconds")

    def __init__(
        self, *, server: web.Server, idle_seconds: float, write_seconds: float, metrics: ConnectionSeries | None
    ) -> None:
        """Answer what comes on one connection, as `HttpConnections` says."""
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=idle_seconds,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # None switches it off, which the annotation leaves out.
        )
        self._metrics = metrics
        self._write_seconds = write_seconds
        self._is_answering = False
        self._cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with buffers that are bounded."""
        super().connection_made(transport)
        cast("asyncio.Transport", transport).set_write_buffer_limits(high=_UNTAKEN_BYTES)

    def pause_writing(self) -> None:
        """Wait with what is written next, and begin to count the time of the answer that is being sent."""
        super().pause_writing()
        if self._is_answering:
            self._count_time()

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        """Answer one request, and give back what it held however that ends."""
        try:
            return await super()._handle_request(request, start_time, request_handler)
        finally:
            claim = claim_of(request)
            if claim is not None:
                claim.close()

    @property
    def idle_seconds(self) -> float | None:
        """Return for how long it has waited for a request, or for the rest of one's head; None while it answers one."""
        if self._waiter is None:
            return None
        return self._loop.time() - (self._next_keepalive_close_time - self._keepalive_timeout)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a message that the parser refused, or to what failed outside of every middleware.

        Raises:
            ConnectionResetError: A part of another answer is on its way, so that nothing can be said any more.

        """
        del message
        if request.writer.output_size > 0:
            raise ConnectionResetError
        instance = request_id_of(request)
        if status == web.HTTPBadRequest.status_code:
            response = _unreadable(exc, instance)
            self._note(response, instance)
        else:
            response = problem(WebCode.INTERNAL, BUG, instance=instance)
            _LOG.error("bug", request=instance, **({} if exc is None else error_fields(exc)))
        mark(request, response)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send `resp`, or the problem document of what aiohttp raised before the middlewares ran."""
        if isinstance(resp, web.HTTPException):
            instance = request_id_of(request)
            resp = problem_of(resp, instance=instance)
            self._note(resp, instance)
        self._is_answering = True
        if self.writing_paused:
            self._count_time()
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            if isinstance(resp, web.Response):
                # aiohttp keeps the last answer of a connection until the next one, and this one may hold values.
                resp.body = None
            self._is_answering = False
            if self._cut is not None:
                self._cut.cancel()
                self._cut = None

    def _count_time(self) -> None:
        if self._cut is None:
            self._cut = self._loop.call_later(self._write_seconds, self._cut_off)

    def _cut_off(self) -> None:
        """End a connection whose agent does not take its answer, which is kept in memory for it."""
        if self.transport is not None:
            _LOG.info("answer_not_taken", seconds=self._write_seconds)
            if self._metrics is not None:
                self._metrics.answer_cut()
            self.transport.abort()

    def _note(self, response: web.Response, instance: str) -> None:
        """Count and log an answer to what never became a request of the application."""
        if self._metrics is not None:
            self._metrics.request(route="other", status=response.status, seconds=0.0)
        _LOG.info("message_refused", request=instance, status=response.status, outcome=response[OUTCOME])


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConnections:
    """Makes the protocol of each connection of one listener.

    Attributes:
        runner: Has been set up.
        idle_seconds: Time for the head of a request, and the idle time of a kept connection.
        write_seconds: Time for an answer to be taken.
        metrics: Counts what is refused; None where requests are not counted.

    """

    runner: web.BaseRunner
    idle_seconds: float
    write_seconds: float = 30.0
    metrics: ConnectionSeries | None = None

    def __call__(self) -> HttpConnection:
        """Return the protocol of one connection.

        Raises:
            RuntimeError: The runner has been cleaned up, so nobody would answer.

        """
        server = self.runner.server
        if server is None:
            message = "the listener outlived its runner"
            raise RuntimeError(message)
        return HttpConnection(
            server=server, idle_seconds=self.idle_seconds, write_seconds=self.write_seconds, metrics=self.metrics
        )


def _unreadable(error: BaseException | None, instance: str) -> web.Response:
    if isinstance(error, LineTooLong):
        return problem(WebCode.HEAD_TOO_LARGE, _TOO_LONG, instance=instance)
    return problem(WebCode.MESSAGE_MALFORMED, _MALFORMED, instance=instance)
