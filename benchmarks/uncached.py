"""Measure reads that no cache can answer, each of a path of its own, beside raw clients of the same store.

The broker and the store alone are loaded by the same blocking processes, which do nothing with an answer: that is what
the store can give at all. `raw_client.py` is what a program gets that reads with a library. All take turns in short
rounds and read with the same rights: they log in as the broker does, because the store works several times as hard for
such a token as for a root token. They speak plain HTTP to the store, as the broker does; the broker adds mTLS, policy
and a durable audit record.
"""

import argparse
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import raw_client
from load import agent_context, answer_of, loads

from broker.cli.child import Process, process, wait_for
from broker.cli.sandbox import Sandbox, sandbox
from broker.cli.sandbox_store import store_request

AT_ONCE = raw_client.AT_ONCE
ALONE = 500
BARE = "processes that only send and receive"
Request = Callable[[int], bytes]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=400, help="distinct paths of each round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds; the median is taken (%(default)s)")
    parser.add_argument("--uvloop", action="store_true", help="run the broker on uvloop")
    arguments = parser.parse_args()
    with sandbox(fresh_for="1h") as place:
        _open(place)
        _fill(place, arguments.reads * (arguments.rounds + 1) + ALONE)
        command = [sys.executable, "-m", "broker", "serve", "--config", str(place.settings_file)]
        command += ["--uvloop"] if arguments.uvloop else []
        # One identity makes all the load.
        environment = {
            **os.environ,
            "LOGFLUX_LOG_LEVEL": "warning",
            "LOGFLUX_LIMITS__IDENTITY_REQUESTS_PER_SECOND": "0",
        }
        with process(command, log=place.directory / "broker.log", environment=environment) as child:
            wait_for(f"http://127.0.0.1:{place.operations_port}/readyz", child)
            Bench(place, child).run(rounds=arguments.rounds, reads=arguments.reads)
    return 0


class Bench:
    """Both sides of the comparison."""

    def __init__(self, place: Sandbox, broker: Process) -> None:
        self._token = token = _log_in(place)
        self._store_address = place.store_address
        store_port = int(place.store_address.rpartition(":")[2])
        context = agent_context(place.directory / "pki")
        self.raw = Side(store_port, None, lambda number: _raw(token, number), place.store)
        self.ours = Side(place.agent_port, context, _resolve, broker)

    def run(self, *, rounds: int, reads: int) -> None:
        ratios: dict[str, list[float]] = {BARE: []} | {client: [] for client in raw_client.CLIENTS}
        # The first round is for connections and for what is compiled at first use.
        for turn in range(rounds + 1):
            numbers = range(turn * reads, (turn + 1) * reads)
            walls: dict[Side, float] = {}
            for side in (self.raw, self.ours) if turn % 2 else (self.ours, self.raw):
                walls[side] = side.many(numbers)
            others = {client: self._program(client, numbers) for client in raw_client.CLIENTS}
            if turn:
                for name, wall in {BARE: walls[self.raw], **others}.items():
                    ratios[name].append(wall / walls[self.ours])
        alone = range((rounds + 1) * reads, (rounds + 1) * reads + ALONE)
        raw, ours = self._alone(alone)
        print(f"{rounds} rounds of {reads} uncached reads, {AT_ONCE} at once; then {ALONE} one by one, each in turn")
        for name, seen in ratios.items():
            print(f"  {f'reads a second against a raw client, {name}':75} {statistics.median(seen):8.2f}   (aim: 0.5)")
        added = (statistics.median(ours) - statistics.median(raw)) * 1000
        print(f"  {'added to the median of a raw client, milliseconds':75} {added:8.2f}   (aim: at most 2)")
        share = self.ours.seconds / self.raw.seconds
        print(f"  {'processor time of the broker against that of the store, one read':75} {share:8.2f}")

    def _program(self, client: str, numbers: range) -> float:
        """Return the wall seconds that a raw client takes for `numbers`."""
        place = Path(__file__).with_name("raw_client.py")
        command = [sys.executable, str(place), client, self._store_address, str(numbers.start), str(len(numbers))]
        return float(subprocess.run(command, input=self._token, text=True, check=True, capture_output=True).stdout)

    def _alone(self, numbers: Sequence[int]) -> tuple[list[float], list[float]]:
        """Return the seconds of each read of both sides, which take turns."""
        with ExitStack() as stack:
            raw, ours = (stack.enter_context(side.connect()) for side in (self.raw, self.ours))
            seen: tuple[list[float], list[float]] = ([], [])
            for number in numbers:
                seen[0].append(_timed(raw, self.raw.request(number)))
                seen[1].append(_timed(ours, self.ours.request(number)))
        return seen


class Side:
    """Where requests go, what they are, and the processor time of who answers."""

    def __init__(self, port: int, context: ssl.SSLContext | None, request: Request, server: Process) -> None:
        self.request = request
        self.seconds = 0.0
        self._port = port
        self._context = context
        self._pid = server.handle.pid

    def many(self, numbers: Sequence[int]) -> float:
        """Return the wall seconds that `numbers` take, divided among as many connections as are open at once."""
        shares = [[self.request(number) for number in numbers[first::AT_ONCE]] for first in range(AT_ONCE)]
        before = _processor_seconds(self._pid)
        wall, parts = loads(self._port, self._context, shares)
        self.seconds += _processor_seconds(self._pid) - before
        if sum(failed for _, failed in parts):
            raise SystemExit("reads failed")
        return wall

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if self._context is None else self._context.wrap_socket(sock, server_hostname="127.0.0.1")


def _timed(sock: socket.socket, request: bytes) -> float:
    began = time.perf_counter()
    sock.sendall(request)
    head = answer_of(sock)
    seconds = time.perf_counter() - began
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"a read failed: {head[:40]!r}")
    return seconds


def _processor_seconds(pid: int) -> float:
    """Return what all threads of a process have used, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _open(place: Sandbox) -> None:
    """Let policy, store and budget pass every read."""
    rules = {"policy": 'path "secret/data/*" { capabilities = ["read"] }'}
    place.ask_store("PUT", "sys/policies/acl/broker", rules)
    policy = place.directory / "policy.yaml"
    policy.write_text(policy.read_text().replace("vault:secret/logflux#*", "vault:secret/**#*"))
    address = f"    address: {place.store_address}\n"
    settings = place.settings_file.read_text()
    place.settings_file.write_text(settings.replace(address, f"{address}    requests_per_second: 100000\n"))


def _fill(place: Sandbox, count: int) -> None:
    for number in range(count):
        data = {"data": {"v": f"value {number}"}}
        place.ask_store("POST", f"secret/data/u/{number}", data)


def _log_in(place: Sandbox) -> str:
    """Return a token with the broker's own rights."""
    names = ("role_id", "secret_id")
    body = {name: (place.directory / name).read_text() for name in names}
    answer = store_request(place.store_address, "", "POST", "auth/approle/login", body)
    return str(answer["auth"]["client_token"])


def _raw(token: str, number: int) -> bytes:
    head = (
        f"GET /v1/secret/data/u/{number} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Vault-Request: true\r\nX-Vault-Token: {token}"
    )
    return f"{head}\r\n\r\n".encode()


def _resolve(number: int) -> bytes:
    body = json.dumps({"references": [f"vault:secret/u/{number}#v"]}).encode()
    head = (
        "POST /v1/resolve HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    sys.exit(main())
