"""Send one request again and again over kept mTLS connections, HTTP/1.1, and print what was seen as JSON.

Each connection is a process of its own with a blocking socket, so that the load costs little: it shares the machine
with what it measures. `ab` speaks HTTP/1.0, which the broker does not, and `wrk` has no client certificates.
"""

import json
import multiprocessing
import socket
import ssl
import statistics
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

_HEAD_END = b"\r\n\r\n"


def answer_of(tls: ssl.SSLSocket) -> bytes:
    """Read one answer with a declared length, and return its head."""
    data = tls.recv(65_536)
    while _HEAD_END not in data:
        data += tls.recv(65_536)
    head, _, body = data.partition(_HEAD_END)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    missing = length - len(body)
    while missing > 0:
        missing -= len(tls.recv(65_536))
    return head


def connection(ready: Barrier, directory: Path, port: int, request: bytes, count: int) -> tuple[list[float], int]:
    """Return the seconds that each of `count` requests took, and how many of them failed."""
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    context.load_cert_chain(directory / "shipper.crt", directory / "shipper.key")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        seen: list[float] = []
        failed = 0
        ready.wait()
        for _ in range(count):
            began = time.perf_counter()
            tls.sendall(request)
            head = answer_of(tls)
            seen.append(time.perf_counter() - began)
            failed += not head.startswith(b"HTTP/1.1 200")
        return seen, failed


def main(directory: Path, port: int, target: str, requests: int, connections: int, body: bytes) -> None:
    method = "POST" if body else "GET"
    request = (
        f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"X-Vault-Request: true\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    fork = multiprocessing.get_context("fork")
    ready = fork.Barrier(connections + 1)
    results = fork.SimpleQueue()

    def one() -> None:
        results.put(connection(ready, directory, port, request, requests // connections))

    children = [fork.Process(target=one, daemon=True) for _ in range(connections)]
    for child in children:
        child.start()
    ready.wait(timeout=60)
    began = time.perf_counter()
    parts = [results.get() for _ in children]
    wall = time.perf_counter() - began
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
