"""A relay in front of a real store that remembers what was asked with which headers."""

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.answering import answering


class Relay(ThreadingHTTPServer):
    """Forward every request, and keep its path and headers."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        self.target = target.removeprefix("http://")
        self.asked: list[tuple[str, dict[str, str]]] = []
        # What becomes of each answer on its way.
        self.rewrite: Callable[[bytes], bytes] = bytes
        self._trap: tuple[str, bool, Callable[[], None]] | None = None
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def traces(self, part: str) -> list[str | None]:
        """Return the `traceparent` of every request whose path has `part` in it."""
        return [headers.get("traceparent") for path, headers in self.asked if part in path]

    def count(self, part: str) -> int:
        """Return how many requests had `part` in their path."""
        return sum(part in path for path, _ in self.asked)

    def trap(self, part: str, act: Callable[[], None], *, answered: bool) -> None:
        """Call `act` in place of the answer to the next request with `part` in its path.

        The store has answered it by then, or never saw it.
        """
        self._trap = (part, answered, act)

    def sprung(self, path: str) -> tuple[bool, Callable[[], None]] | None:
        """Return what to do instead of answering a request for `path`, once."""
        trap = self._trap
        if trap is None or trap[0] not in path:
            return None
        self._trap = None
        return trap[1:]


class _Handler(BaseHTTPRequestHandler):
    server: Relay
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        trap = self.server.sprung(self.path)
        if trap is None:
            self._answer(*self._ask(body))
            return
        answered, act = trap
        if answered:
            self._ask(body)
        act()
        self.close_connection = True

    def _ask(self, body: bytes) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection(self.server.target, timeout=20)
        connection.request(self.command, self.path, body or None, dict(self.headers.items()))
        answer = connection.getresponse()
        content = self.server.rewrite(answer.read())
        connection.close()
        return answer.status, answer.headers.get("Content-Type", "text/plain"), content

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = _forward  # noqa: N815  The names that the standard library looks for.

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""


@contextmanager
def relaying(target: str) -> Iterator[Relay]:
    with answering(Relay(target)) as relay:
        yield relay
