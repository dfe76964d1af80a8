"""Messages that are no HTTP as the broker speaks it: each is answered as a problem document, and quoted nowhere."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from tests.running import RunningBroker, running

# Stands where a token or a secret would.
MARKER = b"lf_pat_marker"
HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET /livez HTTP/1.1\r\n" + HOST
POST = b"POST /v1/resolve HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = {
    "a control character in a value": GET + b"Authorization: Bearer " + MARKER + b"\x01\r\n\r\n",
    "a NUL in a value": GET + b"Authorization: Bearer " + MARKER + b"\x00\r\n\r\n",
    "a control character in a name": GET + b"X-" + MARKER + b"\x01: a\r\n\r\n",
    "a bare CR": GET + b"X-A: " + MARKER + b"\rX\r\n\r\n",
    "a bare LF": GET + b"X-A: " + MARKER + b"\nX: a\r\n\r\n",
    "a space before the colon": GET + MARKER + b" : a\r\n\r\n",
    "a folded header": GET + b"X-A: a\r\n " + MARKER + b"\r\n\r\n",
    "too many headers": GET + b"".join(b"X-%d: %s\r\n" % (number, MARKER) for number in range(200)) + b"\r\n",
    "no request line": MARKER + b" nonsense\r\n\r\n",
    "a method in small letters": b"get /" + MARKER + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method that is none": MARKER.upper() + b" / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a version that is none": b"GET /" + MARKER + b" HTTP/1.2\r\n" + HOST + b"\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + MARKER,
    "a byte beyond ASCII in the path": b"GET /\xff" + MARKER + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "an absolute path that is no address": b"GET http://[" + MARKER + b"/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "no Host": b"GET /livez HTTP/1.1\r\nX: " + MARKER + b"\r\n\r\n",
    "two Hosts": GET + b"Host: " + MARKER + b"\r\n\r\n",
    "a Content-Length that is no number": POST + b"Content-Length: " + MARKER + b"\r\n\r\n",
    "a negative Content-Length": POST + b"Content-Length: -1\r\n\r\n" + MARKER,
    "two Content-Lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + MARKER,
    "a body that is longer than its Content-Length": POST + b'Content-Length: 2\r\n\r\n{}"' + MARKER + b'"\r\n\r\n',
    "Content-Length and Transfer-Encoding": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n"
    + MARKER
    + b"\r\n0\r\n\r\n",
    "a Transfer-Encoding that is none": POST + b"Transfer-Encoding: " + MARKER + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "a chunk size that is none": CHUNKED + MARKER + b"\r\nhello\r\n0\r\n\r\n",
    "a chunk that is longer than its size": CHUNKED + b"5\r\nhello" + MARKER + b"\r\n0\r\n\r\n",
    "a chunk size beyond every machine": CHUNKED + b"f" * 40 + b"\r\n" + MARKER,
    "a trailer with a control character": CHUNKED + b"2\r\n{}\r\n0\r\nX: " + MARKER + b"\x01\r\n\r\n",
    "a TLS greeting inside": b"\x16\x03\x01\x02\x00\x01" + MARKER + b"\x00" * 50,
    "nonsense after a good request": GET + b"\r\n" + MARKER + b" nonsense\r\n\r\n",
}
TOO_LARGE = {
    "a header of 9,000 bytes": GET + b"X-A: " + MARKER + b"a" * 9000 + b"\r\n\r\n",
    # Who sends more than the broker reads at once may still be sending when its connection is closed.
    "a header without an end": GET + b"X-A: " + MARKER + b"a" * 20_000,
    "a path of 9,000 bytes": b"GET /" + MARKER + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
}
CASES = [
    *((name, raw, 400, "message_malformed") for name, raw in MALFORMED.items()),
    *((name, raw, 431, "head_too_large") for name, raw in TOO_LARGE.items()),
    ("HTTP/0.9", b"GET /" + MARKER + b"\r\n\r\n", 505, "http_version_unsupported"),
]


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running(environment={"LOGFLUX_LIMITS__BODY_SECONDS": "0.5"}) as it:
        yield it


@dataclass(frozen=True)
class Raw:
    """An answer as it came, up to the end of the connection."""

    text: bytes

    @property
    def status(self) -> int:
        return int(self.text.split(b" ", 2)[1])

    @property
    def headers(self) -> dict[bytes, bytes]:
        lines = self.text.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}

    @property
    def code(self) -> str:
        return str(json.loads(self.text.partition(b"\r\n\r\n")[2])["code"])


def connect(broker: RunningBroker, listener: str) -> socket.socket:
    place = broker.place
    port = place.agent_port if listener == "agents" else place.operations_port
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    if listener == "operations":
        return plain
    return broker.context().wrap_socket(plain, server_hostname="127.0.0.1")


def exchange(broker: RunningBroker, listener: str, raw: bytes) -> Raw:
    """Send `raw`, and return everything that comes until the broker closes the connection."""
    with closing(connect(broker, listener)) as connection:
        connection.sendall(raw)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return Raw(answer)


@pytest.mark.parametrize("listener", ["agents", "operations"])
@pytest.mark.parametrize(("raw", "status", "code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_no_message_is_a_problem_without_an_echo(
    broker: RunningBroker, listener: str, raw: bytes, status: int, code: str
) -> None:
    answer = exchange(broker, listener, raw)
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers[b"content-type"] == b"application/problem+json"
    assert answer.headers[b"server"] == b"broker"
    assert answer.headers[b"cache-control"] == b"no-store"
    assert len(answer.headers[b"x-request-id"]) == 32
    assert MARKER not in answer.text
    assert MARKER.upper() not in answer.text
    assert MARKER.decode() not in broker.log.lower()
    assert "aiohttp" not in broker.log
    assert answer.headers[b"x-request-id"].decode() in broker.log or listener == "operations"


@pytest.mark.parametrize("path", [b"/oauth2/token", b"/nowhere", b"/v1/cache/refresh"])
@pytest.mark.parametrize("listener", ["agents", "operations"])
def test_an_expectation_that_nobody_knows_is_not_quoted(broker: RunningBroker, listener: str, path: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\nContent-Length: 0\r\n"
    answer = exchange(broker, listener, head + b"Expect: " + MARKER + b"\r\n\r\n")
    assert (answer.status, answer.code) == (400, "request_refused")
    assert answer.headers[b"content-type"] == b"application/problem+json"
    assert MARKER not in answer.text
    assert MARKER.decode() not in broker.log


def test_a_chunk_that_is_none_ends_a_request_that_has_begun(broker: RunningBroker) -> None:
    with closing(connect(broker, "agents")) as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
        # The interim answer proves that the broker waits for the body.
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(MARKER + b"\r\n")
        answer = Raw(connection.recv(65536))
    # aiohttp does not tell a request that waits for its body that its parser has given up, so its time ends it.
    assert (answer.status, answer.code) == (408, "body_timeout")
    assert answer.headers[b"connection"] == b"close"
    assert MARKER not in answer.text
    assert MARKER.decode() not in broker.log


def test_what_was_refused_is_counted_as_requests_are(broker: RunningBroker) -> None:
    def counted() -> float:
        wanted = 'broker_requests_total{route="other",status="400"} '
        lines = broker.operations("/metrics").body.decode().splitlines()
        return sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))

    before = counted()
    exchange(broker, "agents", MALFORMED["no Host"])
    assert counted() == before + 1
