"""What systemd does for a broker, done by the tests: a notify socket, listening sockets, and starts by them."""

import os
import secrets
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker.cli.child import Process, process
from broker.cli.sandbox import Sandbox, sandbox
from broker.web.listening.binding import bind
from tests.running import RunningBroker, verb
from tests.waiting import wait_until

# The descriptors begin at 3 and the variable names the process itself, so both are set where the broker begins.
_HAND_OVER = """
import os, sys
descriptors = [int(one) for one in sys.argv[1].split(",") if one]
# Far up first: a source may be the target of another one.
moved = [os.dup2(one, 200 + place) for place, one in enumerate(descriptors)]
for place, one in enumerate(moved, 3):
    os.dup2(one, place, inheritable=True)
    os.close(one)
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass
class NotifySocket:
    """A datagram socket that keeps what it is told."""

    sock: socket.socket
    address: str
    told: list[str] = field(default_factory=list)

    def wait_for(self, word: str, *, seconds: float = 60.0) -> str:
        """Return the first message, from now on, that begins with `word`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            message = self.next(seconds=max(0.01, deadline - time.monotonic()))
            if message is not None and message.startswith(word):
                return message
        raise AssertionError(f"{word} has not been said; said: {self.told}")

    def next(self, *, seconds: float) -> str | None:
        """Return the next message, or None when there is none in time."""
        self.sock.settimeout(seconds)
        try:
            message = self.sock.recv(65536).decode()
        except TimeoutError:
            return None
        self.told.append(message)
        return message

    def take_all(self) -> None:
        """Take what has been said, as systemd does at once: the socket holds a few messages, and then no more."""
        while self.next(seconds=0.001) is not None:
            pass


@contextmanager
def notify_socket(path: Path | None = None) -> Iterator[NotifySocket]:
    """Listen at `path`, or at an abstract address."""
    name = f"@logflux-broker-{secrets.token_hex(8)}" if path is None else str(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1) if path is None else name)
        try:
            yield NotifySocket(sock, name)
        finally:
            if path is not None:
                path.unlink()


@dataclass
class Supervisor:
    """Own the listening sockets of a place, and run one broker after the other on them."""

    place: Sandbox
    notify: NotifySocket
    sockets: Mapping[str, socket.socket]
    starts: int = 0

    @contextmanager
    def broker(
        self,
        *,
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
    ) -> Iterator[Process]:
        """Start a broker with everything that systemd would give it; `before` is a command that executes it."""
        self.starts += 1
        # The last words of one broker are none of the next one's.
        self.notify.take_all()
        descriptors = [sock.fileno() for sock in self.sockets.values()]
        command = [sys.executable, "-m", "broker", "serve", "--config", str(self.place.settings_file), *options]
        variables = {
            **os.environ,
            "NOTIFY_SOCKET": self.notify.address,
            "WATCHDOG_USEC": "1000000",
            "LISTEN_FDS": str(len(descriptors)),
            "LISTEN_FDNAMES": ":".join(self.sockets),
            **(environment or {}),
        }
        wrapped = [sys.executable, "-c", _HAND_OVER, ",".join(map(str, descriptors)), *before, *command]
        log = self.place.directory / f"broker-{self.starts}.log"
        with process(wrapped, log=log, environment=variables, pass_fds=descriptors) as child:
            yield child

    def stop(self, child: Process) -> int:
        """Stop it as `systemctl stop` does, and return its exit status."""
        child.handle.send_signal(signal.SIGTERM)
        self.notify.wait_for("STOPPING=1")
        return child.handle.wait(timeout=60)


@contextmanager
def supervisor(place: Sandbox, *, hand_over: bool = True) -> Iterator[Supervisor]:
    """Take the ports of `place`, if they are to be handed over."""
    with ExitStack() as stack:
        notify = stack.enter_context(notify_socket(place.directory / "notify"))
        ports = {"agents": place.agent_port, "operations": place.operations_port} if hand_over else {}
        sockets = {name: stack.enter_context(bind("127.0.0.1", port)) for name, port in ports.items()}
        yield Supervisor(place, notify, sockets)


@pytest.fixture(scope="module", name="place")
def surroundings() -> Iterator[Sandbox]:
    """Make what brokers of one file of tests need, one after the other."""
    with sandbox(fresh_for="5m") as it:
        yield it


@pytest.fixture(name="manager")
def manager_of_place(place: Sandbox) -> Iterator[Supervisor]:
    """Own the sockets of `place`, and run its brokers."""
    with supervisor(place) as it:
        yield it


def events(place: Sandbox, kind: str) -> int:
    with closing(sqlite3.connect(f"file:{place.database}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM record WHERE kind = ?", (kind,)).fetchone()[0])


def assert_trail_is_whole(place: Sandbox) -> None:
    verified = verb("audit", "verify", "--database", str(place.database))
    assert verified.returncode == 0, verified.stdout + verified.stderr


def ended(child: Process) -> tuple[int, str]:
    status = child.handle.wait(timeout=60)
    return status, child.log.read_text(errors="replace")


class Agent(threading.Thread):
    """Connects anew for each request, one after the other, and keeps what went wrong."""

    def __init__(self, broker: RunningBroker) -> None:
        super().__init__(daemon=True)
        self.broker = broker
        self.answered = 0
        self.failures: list[str] = []
        self.enough = threading.Event()

    def answer_some_more(self) -> None:
        before = self.answered
        wait_until(lambda: self.answered > before + 5)

    def run(self) -> None:
        while not self.enough.is_set():
            try:
                answer = self.broker.resolve("env:LOGFLUX_PAT")
            except Exception as error:  # noqa: BLE001  Whatever it is, the agent has failed.
                self.failures.append(repr(error))
            else:
                self.answered += 1
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {answer.body!r}")
