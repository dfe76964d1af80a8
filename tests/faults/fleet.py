"""Agents of a fleet that starts at once: `python -m tests.faults.fleet`, one of a few such processes.

It reads its orders as one line of JSON, says `ready`, and begins when the next line comes. Each agent is a thread with
a certificate and a client of its own, which is the one of `broker get` and `broker exec`, with its default time-outs.
"""

import functools
import json
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from broker.agent.client import BrokerClient
from broker.agent.settings import ClientSettings
from broker.errors import BrokerError

# What `broker get` and `broker exec` wait for by default.
_WAIT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the agents of one process do: one agent for each of the certificates, which come with their keys."""

    url: str
    authority: str
    certificates: list[tuple[str, str]]
    references: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """How one agent started; times are those of the machine's steady clock.

    Attributes:
        connects: Each time that it opened a connection; one, unless it had to try again.
        answered: When it had its values, or an error in their place.
        values: What it got, in the order asked.
        failure: The code of the error, empty when there was none.

    """

    connects: list[float]
    answered: float
    values: list[str]
    failure: str


class Agent(threading.Thread):
    """One agent, which waits for the word to begin."""

    def __init__(self, orders: Orders, certificate: tuple[str, str], begin: threading.Event) -> None:
        super().__init__()
        self._begin = begin
        self._references = orders.references
        files = (Path(file) for file in (orders.authority, *certificate))
        self._client = BrokerClient(settings=_settings(orders.url, *files))
        self.started: Started

    def run(self) -> None:
        """Resolve the references once, as an agent does before it goes to work."""
        connects: list[float] = []
        values: list[str] = []
        failure = ""
        self._begin.wait()
        _OF_THIS_AGENT.connects = connects
        try:
            answers = self._client.resolve(self._references)
            values = ["" if one.value is None else one.value.reveal().decode() for one in answers]
        except BrokerError as error:
            failure = error.code
        self.started = Started(connects=connects, answered=time.monotonic(), values=values, failure=failure)


def _settings(url: str, authority: Path, certificate: Path, key: Path) -> ClientSettings:
    return ClientSettings(url=url, authority=authority, certificate=certificate, key=key, wait_seconds=_WAIT_SECONDS)


_OF_THIS_AGENT: Final = threading.local()


def _connect_together(agents: int) -> None:
    """Let the agents note when they connect, and all of them connect the first time before one of them speaks."""
    connect = socket.create_connection
    all_connected = threading.Barrier(agents)

    @functools.wraps(connect)
    def connect_and_wait(*arguments: Any, **options: Any) -> socket.socket:
        _OF_THIS_AGENT.connects.append(time.monotonic())
        connection = connect(*arguments, **options)
        if len(_OF_THIS_AGENT.connects) == 1:
            all_connected.wait()
        return connection

    socket.create_connection = connect_and_wait


def main() -> None:
    """Do what the orders say, and print how each agent started."""
    orders = Orders(**json.loads(sys.stdin.readline()))
    _connect_together(len(orders.certificates))
    begin = threading.Event()
    agents = [Agent(orders, certificate, begin) for certificate in orders.certificates]
    for agent in agents:
        agent.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    begin.set()
    for agent in agents:
        agent.join()
    json.dump([asdict(agent.started) for agent in agents], sys.stdout)


if __name__ == "__main__":
    main()
