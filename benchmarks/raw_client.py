"""Read secrets straight from a store as a program of one's own would, 16 at once, and print the seconds that it took.

Two clients that people write in Python: hvac in threads, and aiohttp, which the broker itself reads with.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import aiohttp
import hvac

AT_ONCE: Final = 16
CLIENTS: Final = ("aiohttp", "hvac")


async def with_aiohttp(address: str, token: str, numbers: range) -> float:
    """Return the seconds that one task after the other of `AT_ONCE` takes over kept connections."""
    headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE), headers=headers) as session:

        async def some(numbers: Iterator[int]) -> None:
            for number in numbers:
                async with session.get(f"{address}/v1/secret/data/u/{number}") as answer:
                    _require(await answer.json(), number)

        async def many(numbers: range) -> float:
            began, shared = time.perf_counter(), iter(numbers)
            await asyncio.gather(*(some(shared) for _ in range(AT_ONCE)))
            return time.perf_counter() - began

        await many(numbers[: 2 * AT_ONCE])
        return await many(numbers)


def with_hvac(address: str, token: str, numbers: range) -> float:
    """Return the seconds that `AT_ONCE` threads take, each with a client and a connection of its own."""
    own = threading.local()

    def read(number: int) -> None:
        if not hasattr(own, "client"):
            own.client = hvac.Client(url=address, token=token)
        secrets = own.client.secrets.kv.v2
        _require(secrets.read_secret_version(path=f"u/{number}", raise_on_deleted_version=True), number)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(read, numbers[: 2 * AT_ONCE]))
        began = time.perf_counter()
        list(threads.map(read, numbers))
        return time.perf_counter() - began


def _require(document: dict[str, dict[str, dict[str, str]]], number: int) -> None:
    if document["data"]["data"]["v"] != f"value {number}":
        raise SystemExit("a read gave something else")


def main(client: str, address: str, first: int, count: int) -> None:
    """Print the seconds; the token comes on standard input."""
    token = sys.stdin.read()
    numbers = range(first, first + count)
    seconds = (
        asyncio.run(with_aiohttp(address, token, numbers))
        if client == "aiohttp"
        else with_hvac(address, token, numbers)
    )
    print(seconds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
