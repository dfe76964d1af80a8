"""Let a crowd of agents watch the same secrets over streams of their own, and count at a real store what that costs it.

Each watcher is a real `POST /v1/watch` over mTLS that names every secret with the version that it has. Requests are
counted in the store's audit log over a few quiet intervals; then secrets are changed, and each watcher has to be told
of each of them once. Memory is that of the broker's process. Timings are printed and never fail anything; a change
that a watcher is not told of, or twice, does.
"""

import argparse
import asyncio
import json
import math
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from benchmarks.audit_log import Asked, of_the_broker
from benchmarks.place import Place, processor_seconds, resident_bytes
from broker.cli.child import Process
from tests.openbao import OpenBao

# What one identity has of the watchers.
EACH: Final = 100
# Streams that are opened at once, as of a fleet whose agents start within some seconds.
_AT_ONCE: Final = 50
# Intervals in which nothing happens, and what is asked of the store is counted.
QUIET: Final = 4
# Intervals after the last watcher was told, in which nobody may be told again.
_AFTER: Final = 2
_LISTING: Final = "secret/detailed-metadata/"
# Readiness asks each five seconds, with watchers and without.
_READINESS: Final = "auth/token/lookup-self"
_RULES: Final = 'path "secret/detailed-metadata/*" { capabilities = ["list", "read"] }'


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Who watches what, and how often the broker looks."""

    watchers: int
    secrets: int
    folders: int
    changed: int
    interval: float

    @property
    def paths(self) -> list[str]:
        """Return the secrets below their mount."""
        return [f"crowd/{number % self.folders}/secret-{number}" for number in range(self.secrets)]


@dataclass(slots=True, kw_only=True)
class Watcher:
    """One stream, and when it was told of which reference."""

    response: aiohttp.ClientResponse
    told: list[tuple[float, str]] = field(default_factory=list)

    async def read(self) -> None:
        """Read until the stream ends."""
        name = ""
        async for line in self.response.content:
            member, _, value = line.decode().rstrip("\n").partition(": ")
            if member == "event":
                name = value
            elif member == "data" and name == "change":
                self.told.append((time.monotonic(), json.loads(value)["reference"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a crowd has cost.

    Attributes:
        opened_in: Seconds in which all streams were opened.
        bytes_each: Memory of the broker for each watcher.
        quiet: Requests of the broker in the store's audit log while nothing happened, without those of readiness.
        intervals: The length of that time.
        used_each: Seconds of a processor that the broker used in each of them, heart-beats included.
        first: Seconds from the last write at the store until the first watcher was told.
        last: The same, until the last watcher was told of everything.
        told: How many watchers were told so many times of each change, as (changes told, how often each).

    """

    opened_in: float
    bytes_each: float
    quiet: list[Asked]
    intervals: float
    used_each: float
    first: float
    last: float
    told: Counter[tuple[int, int]]

    @property
    def listings(self) -> Counter[str]:
        """Return how often each folder was listed."""
        return Counter(one.path for one in self.quiet if one.path.startswith(_LISTING))

    @property
    def others(self) -> Counter[str]:
        """Return what else the store was asked."""
        return Counter(one.path for one in self.quiet if not one.path.startswith(_LISTING))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, default=200, help="streams; the promise names 1000 (%(default)s)")
    parser.add_argument("--secrets", type=int, default=500, help="secrets that each of them names (%(default)s)")
    parser.add_argument("--folders", type=int, default=2, help="folders that these lie in (%(default)s)")
    parser.add_argument("--changed", type=int, default=1, help="secrets that are changed then (%(default)s)")
    parser.add_argument("--interval", type=float, default=5.0, help="watch.interval_seconds (%(default)s)")
    crowd = Crowd(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="logflux-watchers-") as directory:
        seen = watch(Path(directory), crowd)
    most = len(seen.quiet) / seen.intervals / crowd.folders
    print(f"{crowd.watchers} streams, each of {crowd.secrets} secrets in {crowd.folders} folders")
    print(f"  opened in {seen.opened_in:.1f} s, {_AT_ONCE} at a time")
    print(f"  memory of the broker, kilobytes a watcher: {seen.bytes_each / 1024:.0f}")
    print(f"  listings in {seen.intervals:.1f} intervals without a change: {dict(seen.listings)}")
    print(f"  other requests in the store's audit log: {dict(seen.others)}")
    print(f"  requests an interval and folder: {most:.2f}   (aim: at most 2)")
    print(f"  processor time of the broker, seconds an interval: {seen.used_each:.2f}")
    print(f"{crowd.changed} of them changed; the broker looks each {crowd.interval:g} s")
    print(f"  the first watcher is told after {seen.first:.2f} s, the last after {seen.last:.2f} s")
    print(f"  watchers by (changes told, times each): {dict(seen.told)}")
    return 0 if most <= 2 and seen.told == {(crowd.changed, 1): crowd.watchers} else 1


def watch(directory: Path, crowd: Crowd) -> Seen:
    """Let `crowd` watch, change something, and tell what that cost."""
    with closing(OpenBao(directory / "openbao", audit=directory / "audit.log")) as store:
        for path in crowd.paths:
            store.put_secret(path, v="1")
        identities = -(-crowd.watchers // EACH)
        place = Place(directory, store, identities=identities, allow=["vault:secret/crowd/**#*"], rules=_RULES)
        sections = {
            "watch": {"interval_seconds": crowd.interval},
            # Beside the watchers, whoever looks at the broker meanwhile.
            "listen": {"max_connections": crowd.watchers + 16},
        }
        with place.broker({}, **sections) as broker:
            return asyncio.run(_watch(place, broker, crowd))


async def _watch(place: Place, broker: Process, crowd: Crowd) -> Seen:
    async with _session() as session, AsyncExitStack() as streams:
        contexts = [place.context(agent) for agent in place.agents]
        body = _body(crowd)
        # The first one is for what is imported and compiled at first use.
        await streams.enter_async_context(_stream(session, place, contexts[0], body))
        before, began = resident_bytes(broker), time.monotonic()
        watchers = await _open_all(streams, session, place, contexts, body, crowd.watchers)
        opened_in = time.monotonic() - began
        # The first look of each is the one at the versions that it has.
        await asyncio.sleep(2 * crowd.interval)
        bytes_each = (resident_bytes(broker) - before) / crowd.watchers
        since, used = time.time(), processor_seconds(broker.handle.pid)
        await asyncio.sleep(QUIET * crowd.interval)
        used = processor_seconds(broker.handle.pid) - used
        audited = await asyncio.to_thread(lambda: list(of_the_broker(place.directory / "audit.log", since=since)))
        intervals = (time.time() - since) / crowd.interval
        quiet = [one for one in audited if one.path != _READINESS]
        written = await asyncio.to_thread(_change, place, crowd)
        deadline = time.monotonic() + 20 * crowd.interval + 60
        while any(len(one.told) < crowd.changed for one in watchers) and time.monotonic() < deadline:  # noqa: ASYNC110  Each is told by itself.
            await asyncio.sleep(0.05)
        await asyncio.sleep(_AFTER * crowd.interval)
    moments = sorted(moment - written for one in watchers for moment, _ in one.told)
    return Seen(
        opened_in=opened_in,
        bytes_each=bytes_each,
        quiet=quiet,
        intervals=intervals,
        used_each=used / intervals,
        first=moments[0] if moments else math.inf,
        last=moments[-1] if moments else math.inf,
        told=Counter(_times(one) for one in watchers),
    )


def _times(watcher: Watcher) -> tuple[int, int]:
    """Return of how many references a watcher was told, and how often of the one it was told of most."""
    times = Counter(reference for _, reference in watcher.told)
    return len(times), max(times.values(), default=0)


def _change(place: Place, crowd: Crowd) -> float:
    for path in crowd.paths[: crowd.changed]:
        place.store.put_secret(path, v="2")
    return time.monotonic()


def _body(crowd: Crowd) -> bytes:
    references = [f"vault:secret/{path}#v" for path in crowd.paths]
    return json.dumps({"references": references, "versions": dict.fromkeys(references, "1")}).encode()


async def _open_all(
    streams: AsyncExitStack,
    session: aiohttp.ClientSession,
    place: Place,
    contexts: Sequence[ssl.SSLContext],
    body: bytes,
    count: int,
) -> list[Watcher]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> Watcher:
        async with gate:
            return await streams.enter_async_context(_stream(session, place, contexts[number // EACH], body))

    return await asyncio.gather(*(one(number) for number in range(count)))


@asynccontextmanager
async def _stream(
    session: aiohttp.ClientSession, place: Place, context: ssl.SSLContext, body: bytes
) -> AsyncIterator[Watcher]:
    headers = {"Content-Type": "application/json"}
    url = f"https://127.0.0.1:{place.port}/v1/watch"
    async with session.post(url, data=body, headers=headers, ssl=context) as response:
        if response.status != 200:
            raise SystemExit(f"a watch failed: {response.status} {await response.text()}")
        watcher = Watcher(response=response)
        reading = asyncio.create_task(watcher.read())
        try:
            yield watcher
        finally:
            reading.cancel()
            await asyncio.wait([reading])


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    """Make a session whose streams are not bounded, in number and in time."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        yield session


if __name__ == "__main__":
    sys.exit(main())
