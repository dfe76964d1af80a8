"""The log of a real broker: one JSON object a line, whatever its peers send."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from broker.cli.sandbox import SHIPPER
from tests.running import RunningBroker, running

REFERENCE = "vault:secret/logflux#api_key"
HOSTILE = ("\x1b[31mred", "a\u2028b", "a\u202eb", "\x9b2J", "\ud800", "a\r\nb", '{"event":"forged"}')


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running(environment={"LOGFLUX_LOG_LEVEL": "debug"}) as it:
        yield it


def lines(broker: RunningBroker) -> list[dict[str, Any]]:
    return [json.loads(line) for line in broker.log.splitlines()]


def requests(broker: RunningBroker) -> list[dict[str, Any]]:
    return [line for line in lines(broker) if line["event"] == "request"]


def raw(broker: RunningBroker, head: bytes) -> None:
    with (
        socket.create_connection(("127.0.0.1", broker.place.agent_port), timeout=10) as plain,
        broker.context().wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(head)
        while tls.recv(65_536):
            pass


def test_a_request_is_one_line_that_names_who_asked_and_what_came_of_it(broker: RunningBroker) -> None:
    answer = broker.resolve(REFERENCE, "env:LOGFLUX_PAT")
    [line] = [line for line in requests(broker) if line["request"] == answer.headers["X-Request-Id"]]
    assert (line["identity"], line["route"], line["status"], line["outcome"]) == (SHIPPER, "/v1/resolve", 200, "ok")
    assert line["references"] == {"ok": 2}
    assert line["milliseconds"] >= line["body_milliseconds"] >= 0


def test_nothing_that_a_peer_sends_makes_a_line_or_hides_one(broker: RunningBroker) -> None:
    before = len(requests(broker))
    for text in HOSTILE:
        broker.resolve(text, REFERENCE + text)
        broker.resolve(REFERENCE, token="x." + json.dumps(text)[1:-1])
    for octets in (b"\x1b[31m", b"\xe2\x80\xa8", b"\x9b2J", b"\xff\xfe", b"%0d%0a%1b"):
        raw(
            broker,
            b"GET /" + octets.replace(b"\x1b", b"%1b") + b" HTTP/1.1\r\nHost: x" + octets + b"\r\nUser-Agent: " + octets
            + b"\r\ntraceparent: " + octets + b"\r\nX-Request-Id: " + octets + b"\r\nConnection: close\r\n\r\n",
        )  # fmt: skip
    log = broker.log
    assert all(line.isascii() and line.isprintable() for line in log.split("\n"))
    assert all({"time", "level", "logger", "event"} <= line.keys() for line in lines(broker))
    assert "forged" not in {line["event"] for line in lines(broker)}
    assert len(requests(broker)) >= before + 2 * len(HOSTILE)


def test_the_debug_level_tells_references(broker: RunningBroker) -> None:
    answer = broker.resolve(REFERENCE)
    told = [line for line in lines(broker) if line["event"] == "references"]
    [line] = [line for line in told if line["request"] == answer.headers["X-Request-Id"]]
    assert (line["level"], line["references"]) == ("debug", [f"{REFERENCE} ok"])
