"""Send one request again and again over kept mTLS connections, HTTP/1.1, and print what was seen as JSON.

Each connection is a process of its own with a blocking socket, so that the load costs little: it shares the machine
with what it measures. `ab` speaks HTTP/1.0, which the broker does not, and `wrk` has no client certificates.
"""

import contextlib
import itertools
import json
import multiprocessing
import socket
import ssl
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

_HEAD_END = b"\r\n\r\n"
# The seconds that each request took, and how many of them failed.
Seen = tuple[list[float], int]


def answer_of(sock: socket.socket) -> bytes:
    """Read one answer with a declared length, and return its head."""
    data = sock.recv(65_536)
    while _HEAD_END not in data:
        data += sock.recv(65_536)
    head, _, body = data.partition(_HEAD_END)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    missing = length - len(body)
    while missing > 0:
        missing -= len(sock.recv(65_536))
    return head


def connection(ready: Barrier, port: int, context: ssl.SSLContext | None, requests: Iterable[bytes]) -> Seen:
    """Send `requests` one after the other over a connection of their own, and return what was seen."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname="127.0.0.1"))
        seen: list[float] = []
        failed = 0
        ready.wait()
        for request in requests:
            began = time.perf_counter()
            sock.sendall(request)
            head = answer_of(sock)
            seen.append(time.perf_counter() - began)
            failed += not head.startswith(b"HTTP/1.1 200")
        return seen, failed


def loads(port: int, context: ssl.SSLContext | None, shares: Sequence[Iterable[bytes]]) -> tuple[float, list[Seen]]:
    """Send each share over a connection of its own, all at once; return the wall seconds and what each saw."""
    fork = multiprocessing.get_context("fork")
    ready = fork.Barrier(len(shares) + 1)
    results = fork.SimpleQueue()

    def one(share: Iterable[bytes]) -> None:
        results.put(connection(ready, port, context, share))

    children = [fork.Process(target=one, args=(share,), daemon=True) for share in shares]
    for child in children:
        child.start()
    ready.wait(timeout=60)
    began = time.perf_counter()
    parts = [results.get() for _ in children]
    return time.perf_counter() - began, parts


def agent_context(directory: Path) -> ssl.SSLContext:
    """Return what an agent connects with, whose certificates are in `directory`."""
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    context.load_cert_chain(directory / "shipper.crt", directory / "shipper.key")
    return context


def main(directory: Path, port: int, target: str, requests: int, connections: int, body: bytes) -> None:
    method = "POST" if body else "GET"
    request = (
        f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"X-Vault-Request: true\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    shares = [itertools.repeat(request, requests // connections) for _ in range(connections)]
    wall, parts = loads(port, agent_context(directory), shares)
    seen = [seconds for part, _ in parts for seconds in part]
    result = {
        "rate": len(seen) / wall,
        "median": statistics.median(seen),
        "p99": statistics.quantiles(seen, n=100)[98],
        "failed": sum(failed for _, failed in parts),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.stdin.buffer.read())
