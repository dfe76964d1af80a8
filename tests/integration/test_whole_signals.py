"""SIGTERM and SIGKILL in the middle of requests: what was begun is answered, and the trail is whole."""

import http.client
import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from broker.cli.sandbox import sandbox
from tests.running import RunningBroker, audit, running, serving
from tests.waiting import wait_until

API_KEY = "vault:secret/logflux#api_key"
BODY = json.dumps({"references": [API_KEY, "env:LOGFLUX_PAT"]}).encode()
AGENTS = 12


@contextmanager
def half_sent(broker: RunningBroker, count: int) -> Iterator[list[http.client.HTTPSConnection]]:
    """Open `count` connections whose request has a head and half a body: in flight, and known to be."""
    opened = []
    for _ in range(count):
        connection = broker.connection()
        connection.putrequest("POST", "/v1/resolve")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(BODY)))
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        # The interim answer proves that the broker is inside this very request.
        assert connection.sock.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.send(BODY[:10])
        opened.append(connection)
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


def finish(connection: http.client.HTTPSConnection) -> tuple[int, bytes]:
    connection.send(BODY[10:])
    response = connection.getresponse()
    return response.status, response.read()


def resolved(broker: RunningBroker) -> int:
    return len(audit(broker, "search", "--type", "resolve", "--json").stdout.splitlines())


def refuses_connections(broker: RunningBroker) -> bool:
    try:
        broker.resolve("env:LOGFLUX_PAT")
    except OSError:
        return True
    return False


def test_every_request_in_flight_at_sigterm_is_answered_and_on_record() -> None:
    with running() as broker, half_sent(broker, AGENTS) as connections:
        broker.child.handle.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(broker))
        before = resolved(broker)
        answers = [finish(connection) for connection in connections]
        assert broker.child.handle.wait(timeout=20) == 0
        assert [status for status, _ in answers] == [200] * AGENTS
        assert all(len(json.loads(body)["results"]) == 2 for _, body in answers)
        assert resolved(broker) == before + AGENTS
        last = json.loads(audit(broker, "search", "--json").stdout.splitlines()[-1])
        assert last["kind"] == "stop"
        verified = audit(broker, "verify")
        assert verified.returncode == 0, verified.stdout


def test_a_second_sigterm_changes_nothing() -> None:
    with running() as broker, half_sent(broker, 3) as connections:
        for _ in range(3):
            broker.child.handle.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(broker))
        broker.child.handle.send_signal(signal.SIGTERM)
        broker.child.handle.send_signal(signal.SIGINT)
        assert [finish(connection)[0] for connection in connections] == [200] * 3
        assert broker.child.handle.wait(timeout=20) == 0
        assert audit(broker, "verify").returncode == 0
        stops = audit(broker, "search", "--type", "stop", "--json").stdout.splitlines()
        assert len(stops) == 1
        assert "Traceback" not in broker.log


def test_a_killed_broker_leaves_every_answered_value_on_record_and_starts_again() -> None:
    with sandbox(fresh_for="5m") as place:
        with serving(place) as broker:
            answered = kill_under_load(broker)
        with serving(place) as broker:
            # What was answered stands in the trail; what was recorded and not answered may stand there too.
            assert resolved(broker) >= answered > 0
            assert broker.resolve(API_KEY).status == 200
            verified = audit(broker, "verify")
            assert verified.returncode == 0, verified.stdout
            starts = audit(broker, "search", "--type", "start", "--json").stdout.splitlines()
            assert len(starts) == 2
            assert audit(broker, "search", "--type", "stop", "--json").stdout == ""


def kill_under_load(broker: RunningBroker) -> int:
    """Ask from four sides, kill the broker in the middle, and return how many values were answered."""
    answered = 0
    enough = threading.Event()

    def ask() -> None:
        nonlocal answered
        while True:
            try:
                if broker.resolve(API_KEY).status == 200:
                    answered += 1
                    if answered >= 20:
                        enough.set()
            except (OSError, http.client.HTTPException):
                return

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask)
        assert enough.wait(20)
        broker.child.kill()
    return answered
