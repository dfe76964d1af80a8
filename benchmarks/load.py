"""Send one request again and again over kept mTLS connections, HTTP/1.1, and print what was seen as JSON.

`ab` speaks HTTP/1.0, which the broker does not, and `wrk` has no client certificates.
"""

import asyncio
import json
import ssl
import statistics
import sys
import time
from pathlib import Path

CONNECTIONS = 16


async def connection(port: int, context: ssl.SSLContext, request: bytes, count: int, seen: list[float]) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
    failed = 0
    for _ in range(count):
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        seen.append(time.perf_counter() - began)
        failed += not head.startswith(b"HTTP/1.1 200")
    writer.close()
    return failed


async def main(directory: Path, port: int, target: str, requests: int, body: bytes) -> None:
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    context.load_cert_chain(directory / "shipper.crt", directory / "shipper.key")
    method = "POST" if body else "GET"
    request = (
        f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"X-Vault-Request: true\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    seen: list[float] = []
    began = time.perf_counter()
    each = [connection(port, context, request, requests // CONNECTIONS, seen) for _ in range(CONNECTIONS)]
    failed = sum(await asyncio.gather(*each))
    wall = time.perf_counter() - began
    result = {
        "rate": len(seen) / wall,
        "median": statistics.median(seen),
        "p99": statistics.quantiles(seen, n=100)[98],
        "failed": failed,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.stdin.buffer.read()))
