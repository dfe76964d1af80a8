"""Measure reads that no cache can answer, each of a path of its own, beside a raw client of the same store.

Both come from this process and one after the other, with as many at once. The raw client speaks plain HTTP to the
store, as the broker does; the broker adds mTLS, policy and a durable audit record.
"""

import argparse
import asyncio
import os
import ssl
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from broker.cli.child import process, wait_for
from broker.cli.sandbox import Sandbox, sandbox
from broker.cli.sandbox_store import store_request

AT_ONCE = 16
ALONE = 300
Ask = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Read:
    """Requests a second with many at once, and the median of one after the other, in seconds."""

    rate: float
    median: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=3000, help="distinct paths (%(default)s)")
    arguments = parser.parse_args()
    with sandbox(fresh_for="1h") as place:
        _open(place)
        for number in range(arguments.reads + ALONE):
            data = {"data": {"v": f"value {number}"}}
            store_request(place.store_address, place.store_token, "POST", f"secret/data/u/{number}", data)
        command = [sys.executable, "-m", "broker", "serve", "--config", str(place.settings_file)]
        environment = {**os.environ, "LOGFLUX_LOG_LEVEL": "warning"}
        with process(command, log=place.directory / "broker.log", environment=environment) as child:
            wait_for(f"http://127.0.0.1:{place.operations_port}/readyz", child)
            raw, ours = asyncio.run(_both(place, arguments.reads))
    print(f"{arguments.reads} uncached reads, {AT_ONCE} at once, then {ALONE} one by one; each a path of its own")
    print(f"  {'reads a second against a raw client':75} {ours.rate / raw.rate:8.2f}   (aim: 0.5)")
    added = (ours.median - raw.median) * 1000
    print(f"  {'added to the median of a raw client, milliseconds':75} {added:8.2f}   (aim: at most 2)")
    return 0


def _open(place: Sandbox) -> None:
    """Let policy, store and budget pass every read."""
    rules = {"policy": 'path "secret/data/*" { capabilities = ["read"] }'}
    store_request(place.store_address, place.store_token, "PUT", "sys/policies/acl/broker", rules)
    policy = place.directory / "policy.yaml"
    policy.write_text(policy.read_text().replace("vault:secret/logflux#*", "vault:secret/**#*"))
    address = f"    address: {place.store_address}\n"
    settings = place.settings_file.read_text()
    place.settings_file.write_text(settings.replace(address, f"{address}    requests_per_second: 100000\n"))


async def _both(place: Sandbox, reads: int) -> tuple[Read, Read]:
    context = ssl.create_default_context(cafile=str(place.authority))
    context.load_cert_chain(*place.certificate("shipper"))
    headers = {"X-Vault-Token": place.store_token}
    connector = aiohttp.TCPConnector(ssl=context, limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def raw(number: int) -> None:
            async with session.get(f"{place.store_address}/v1/secret/data/u/{number}", headers=headers) as answer:
                answer.raise_for_status()
                await answer.read()

        async def ours(number: int) -> None:
            body = {"references": [f"vault:secret/u/{number}#v"]}
            async with session.post(f"{place.url}/v1/resolve", json=body) as answer:
                answer.raise_for_status()
                await answer.read()

        return await _read(raw, reads), await _read(ours, reads)


async def _read(ask: Ask, reads: int) -> Read:
    numbers = iter(range(reads))

    async def some() -> None:
        for number in numbers:
            await ask(number)

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    rate = reads / (time.perf_counter() - began)
    alone: list[float] = []
    for number in range(reads, reads + ALONE):
        began = time.perf_counter()
        await ask(number)
        alone.append(time.perf_counter() - began)
    return Read(rate, statistics.median(alone))


if __name__ == "__main__":
    sys.exit(main())
