"""A broker in a control group with a real memory limit, asked for more at once than there is memory."""

import http.client
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from broker.cli.sandbox import Sandbox, sandbox
from tests.control_groups import MemoryGroup, memory_group, needs_memory_group
from tests.running import RunningBroker, serving
from tests.waiting import wait_until

MIB = 1024 * 1024
LIMIT = 128 * MIB
AGENTS = 32
# JSON writes each of these characters in six bytes: every answer has 1.9 MiB.
VALUE = "é" * (320 * 1024)
HEADERS = {"Content-Type": "application/json"}


def mount_values(place: Sandbox, settings: str) -> list[str]:
    files = [place.files / f"value-{number}" for number in range(AGENTS)]
    for file in files:
        file.write_text(VALUE)
        file.chmod(0o600)
    with place.settings_file.open("a") as text:
        text.write(settings)
    return [f"file:{file}" for file in files]


@contextmanager
def limited(settings: str = "") -> Iterator[tuple[RunningBroker, MemoryGroup, list[str]]]:
    with memory_group(LIMIT) as group, sandbox(fresh_for="5m") as place:
        references = mount_values(place, settings)
        with serving(place, wrapper=group.wrapper) as broker:
            yield broker, group, references


def ask_at_once(broker: RunningBroker, references: list[str]) -> list[http.client.HTTPSConnection]:
    """Ask for one value on each of many connections; nobody has read anything yet."""
    connections = [slow_connection(broker) for _ in references]
    for connection, reference in zip(connections, references, strict=True):
        connection.request("POST", "/v1/resolve", json.dumps({"references": [reference]}), HEADERS)
    return connections


def is_given(connection: http.client.HTTPSConnection) -> bool:
    """Read the answer, and tell whether it has the value; otherwise it has to say when to come again."""
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    if response.status == 200:
        assert answer["results"][0]["value"] == VALUE
        return True
    assert (response.status, answer["code"]) == (503, "in_flight_limit")
    assert int(response.headers["Retry-After"]) >= 1
    return False


def slow_connection(broker: RunningBroker) -> http.client.HTTPSConnection:
    """Return an open connection with a kernel that takes next to nothing, or it would take all of a large answer."""
    connection = broker.connection(seconds=60.0)
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(("127.0.0.1", broker.place.agent_port))
    connection.sock = broker.context().wrap_socket(plain, server_hostname="127.0.0.1")
    return connection


def series(broker: RunningBroker, name: str) -> float:
    lines = broker.operations("/metrics").body.decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def in_flight(broker: RunningBroker, part: str) -> float:
    return series(broker, f'broker_in_flight_bytes{{part="{part}"}}')


@needs_memory_group
def test_every_one_of_too_many_large_answers_is_given_or_refused_and_the_broker_lives() -> None:
    with limited() as (broker, group, references):
        connections = ask_at_once(broker, references)
        with ThreadPoolExecutor(AGENTS) as pool:
            given = list(pool.map(is_given, connections))
        refused = [reference for reference, had in zip(references, given, strict=True) if not had]
        assert len(refused) < AGENTS
        assert series(broker, 'broker_in_flight_waits_total{part="answers"}') >= 1
        assert group.kills == 0
        wait_until(lambda: in_flight(broker, "answers") == 0 and in_flight(broker, "values") == 0)
        # Who comes again has its value.
        assert [broker.resolve(reference).status for reference in refused] == [200] * len(refused)
        assert broker.terminate() == 0


@needs_memory_group
def test_without_the_budget_the_same_kills_it() -> None:
    with limited("limits: { max_bytes_in_flight: 0 }\n") as (broker, group, references):
        connections = ask_at_once(broker, references)
        wait_until(lambda: broker.child.handle.poll() is not None)
        assert group.kills == 1
        for connection in connections:
            connection.close()


def test_an_agent_that_does_not_take_its_answer_is_cut_off_over_tls_too() -> None:
    with (
        sandbox(fresh_for="5m") as place,
        serving(place, environment={"LOGFLUX_LISTEN__WRITE_SECONDS": "0.3"}) as broker,
    ):
        (reference, *_) = mount_values(place, "")
        (connection,) = ask_at_once(broker, [reference])
        wait_until(lambda: series(broker, "broker_answers_cut_total") == 1)
        wait_until(lambda: in_flight(broker, "answers") == 0 and series(broker, "broker_connections") == 0)
        assert '"event":"answer_not_taken"' in broker.log
        connection.close()
        assert broker.resolve(reference).status == 200
