"""Connections that go wrong against the whole broker: counted, on record, and their place is free again."""

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from broker.cli.sandbox import sandbox
from tests.running import RunningBroker, audit, serving
from tests.waiting import wait_until

API_KEY = "vault:secret/logflux#api_key"
BODY = json.dumps({"references": [API_KEY]}).encode()
HEAD = b"POST /v1/resolve HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
PLACES = 4


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with sandbox(fresh_for="5m") as place:
        text = place.settings_file.read_text()
        listen = f"listen: {{ host: 127.0.0.1, port: {place.agent_port}"
        assert listen in text
        text = text.replace(listen, f"{listen}, max_connections: {PLACES}")
        place.settings_file.write_text(text)
        # Both versions are offered here, so that a client of 1.2 gets as far as its suites.
        place.settings_file.write_text(text.replace("tls:\n", 'tls:\n  minimum: "1.2"\n'))
        with serving(place) as it:
            yield it


def connect(broker: RunningBroker, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", broker.place.agent_port), timeout=20)
    try:
        return context.wrap_socket(plain, server_hostname="127.0.0.1")
    except BaseException:
        plain.close()
        raise


def vanish(connection: ssl.SSLSocket) -> None:
    """End a connection as a crashed client does: a reset, without a TLS shutdown."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()


def recorded(broker: RunningBroker, kind: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in audit(broker, "search", "--type", kind, "--json").stdout.splitlines()]


def counted(broker: RunningBroker, outcome: str) -> float:
    return measured(broker, f'broker_handshakes_total{{outcome="{outcome}"}} ')


def measured(broker: RunningBroker, wanted: str) -> float:
    for line in broker.operations("/metrics").body.decode().splitlines():
        if line.startswith(wanted):
            return float(line.removeprefix(wanted))
    return 0.0


def every_place_is_free(broker: RunningBroker) -> bool:
    """Tell whether as many connections as there are places can be open and used at once."""
    context = broker.context()
    with ExitStack() as stack:
        for _ in range(PLACES):
            stack.enter_context(closing(connect(broker, context)))
    return True


def test_the_number_of_open_connections_follows_those_that_end(broker: RunningBroker) -> None:
    with ExitStack() as stack:
        for _ in range(PLACES):
            stack.enter_context(closing(connect(broker, broker.context())))
        wait_until(lambda: measured(broker, "broker_connections ") == PLACES)
    wait_until(lambda: measured(broker, "broker_connections ") == 0)


def test_clients_that_vanish_during_the_body_give_their_places_back(broker: RunningBroker) -> None:
    for _ in range(2 * PLACES):
        connection = connect(broker, broker.context())
        connection.sendall(HEAD + str(len(BODY)).encode() + b"\r\n\r\n" + BODY[:10])
        vanish(connection)
    assert every_place_is_free(broker)
    assert broker.resolve(API_KEY).status == 200


def test_what_clients_asked_that_vanish_before_the_answer_is_on_record(broker: RunningBroker) -> None:
    before = len(recorded(broker, "resolve"))
    for _ in range(2 * PLACES):
        connection = connect(broker, broker.context())
        connection.sendall(HEAD + str(len(BODY)).encode() + b"\r\n\r\n" + BODY)
        vanish(connection)
    # The broker may see the reset before the request; whichever it was, nothing hangs and nothing is half.
    assert every_place_is_free(broker)
    assert broker.resolve(API_KEY).status == 200
    assert len(recorded(broker, "resolve")) > before
    assert audit(broker, "verify").returncode == 0


def test_an_answer_that_nobody_takes_gives_its_place_back(broker: RunningBroker) -> None:
    with closing(connect(broker, broker.context())) as connection:
        connection.sendall(HEAD + str(len(BODY)).encode() + b"\r\n\r\n" + BODY)
        connection.shutdown(socket.SHUT_WR)
    assert every_place_is_free(broker)


CBC_ONLY = "ECDHE-ECDSA-AES128-SHA256"


def speak(broker: RunningBroker, *, version: ssl.TLSVersion, suites: str | None = None) -> None:
    context = broker.context()
    context.minimum_version = context.maximum_version = version
    if suites:
        context.set_ciphers(suites)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(broker, context)


def plain_http(broker: RunningBroker) -> None:
    with closing(socket.create_connection(("127.0.0.1", broker.place.agent_port), timeout=20)) as connection:
        connection.sendall(b"GET /v1/resolve HTTP/1.1\r\nHost: broker\r\n\r\n")
        assert not connection.recv(4096).startswith(b"HTTP/")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", ["protocol_version", "no_shared_cipher", "plain_http", "no_certificate"])
def test_a_refused_handshake_is_counted_and_on_record_with_its_reason(broker: RunningBroker, kind: str) -> None:
    before = counted(broker, kind)
    if kind == "protocol_version":
        speak(broker, version=ssl.TLSVersion.TLSv1_1, suites="ALL:@SECLEVEL=0")
    elif kind == "no_shared_cipher":
        speak(broker, version=ssl.TLSVersion.TLSv1_2, suites=CBC_ONLY)
    elif kind == "plain_http":
        plain_http(broker)
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            broker.post("/v1/resolve", BODY, agent=None)
    wait_until(lambda: counted(broker, kind) == before + 1)
    wait_until(lambda: len(refused(broker, kind)) == before + 1)
    last = refused(broker, kind)[-1]
    assert (last["outcome"], last["address"]) == ("failure", "127.0.0.1")


def refused(broker: RunningBroker, kind: str) -> list[dict[str, object]]:
    return [record for record in recorded(broker, "handshake") if record["reason"] == kind]
