"""A thousand agents start within a second before a cold broker, with twenty references each; each in its own process.

The broker is `broker serve` as it is installed, with its own settings but for addresses; the agents are threads of a
few processes, with the client of `broker get` and a certificate each.
"""

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, STDOUT
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

import aiohttp
import pytest

from tests.certificates import Files, TestAuthority
from tests.faults.asked import between, count
from tests.faults.figures import Figure, write_figure
from tests.faults.fleet import Orders, Started
from tests.faults.machine import Processor
from tests.faults.operations import Operations
from tests.faults.record import StoreRecord
from tests.faults.relay import Relay
from tests.faults.setting import AGENT, fill, write_settings
from tests.openbao import OpenBao

AGENTS: Final = 1000
DRIVERS: Final = 4
PATHS: Final = 20
REFERENCES: Final = [f"vault:secret/start/{number}#v" for number in range(PATHS)]
VALUES: Final = [f"value {number}" for number in range(PATHS)]
SECOND: Final = 1.0
LONGEST_LINE: Final = 16 * 1024 * 1024
# Where others keep the machine busy, another cold broker gets another chance.
ARRIVALS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How a fleet started before one cold broker.

    Attributes:
        started: How each agent did.
        counted: What the broker counted.
        since: When the broker was started.
        was_disturbed: Others kept the broker from working.
        used: Seconds of a processor that the broker used.

    """

    started: list[Started]
    counted: dict[str, float]
    since: float
    was_disturbed: bool
    used: float

    @property
    def began(self) -> float:
        return min(one.connects[0] for one in self.started)

    @property
    def seconds(self) -> float:
        """Return the time in which all agents have connected."""
        return max(one.connects[0] for one in self.started) - self.began

    @property
    def counts(self) -> bool:
        """Tell whether it says anything of the broker: agents came in time, and it could work, or did nevertheless."""
        first_try = all(not one.failure and len(one.connects) == 1 for one in self.started)
        return self.seconds < SECOND and (first_try or not self.was_disturbed)

    @property
    def answered(self) -> list[float]:
        """Return the seconds after which agents had their values, in order."""
        return sorted(one.answered - self.began for one in self.started)


@asynccontextmanager
async def cold_broker(
    directory: Path, authority: TestAuthority, relay: Relay
) -> AsyncIterator[tuple[str, Operations, int]]:
    """Run a broker that has read nothing, with the defaults of everything that is about load."""
    file = await asyncio.to_thread(write_settings, directory, authority, [relay.address], {})
    settings = json.loads(file.read_text())
    vault = settings["providers"]["vault"]
    settings["providers"]["vault"] = {"addresses": vault["addresses"], "auth": vault["auth"]}
    file.write_text(json.dumps(settings))
    policy = json.loads((directory / "policy.yaml").read_text())
    del policy["rules"][0]["fresh_for"], policy["rules"][0]["max_stale"]
    (directory / "policy.yaml").write_text(json.dumps(policy))
    operations = Operations(settings["operations"]["port"])
    with (directory / "broker.log").open("wb") as log:
        broker = await python("-m", "broker", "serve", "--config", str(file), stdout=log, stderr=STDOUT)
    try:
        await until_ready(operations)
        yield f"https://127.0.0.1:{settings['listen']['port']}", operations, broker.pid
    finally:
        broker.terminate()
        await broker.wait()


async def python(*arguments: str, **streams: int | IO[bytes]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, limit=LONGEST_LINE, **streams)


async def until_ready(operations: Operations) -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(aiohttp.ClientError):
                status, _ = await operations.readyz()
                if status == 200:
                    return
            await asyncio.sleep(0.05)


async def start_fleet(orders: Sequence[Orders], broker: int) -> tuple[list[Started], Processor]:
    """Let the agents of a process for each of `orders` begin at one moment.

    Return how each of them started, and what the broker has of the processors from the beginning on.
    """
    drivers = [await python("-m", "tests.faults.fleet", stdin=PIPE, stdout=PIPE) for _ in orders]
    for driver, order in zip(drivers, orders, strict=True):
        say(driver, json.dumps(asdict(order)))
    for driver in drivers:
        assert driver.stdout is not None
        assert await driver.stdout.readline() == b"ready\n"
    processor = Processor(broker)
    for driver in drivers:
        say(driver, "begin")
    answers = await asyncio.gather(*(driver.communicate() for driver in drivers))
    return [Started(**started) for answer, _ in answers for started in json.loads(answer)], processor


def say(driver: asyncio.subprocess.Process, line: str) -> None:
    assert driver.stdin is not None
    driver.stdin.write(line.encode() + b"\n")


def prepare(store: OpenBao, directory: Path) -> None:
    """Put the secrets into the store, and what a broker needs into a directory of its own."""
    directory.mkdir()
    fill(store, directory)
    for number, value in enumerate(VALUES):
        store.put_secret(f"start/{number}", v=value)


async def arrive(directory: Path, authority: TestAuthority, relay: Relay, certificates: Sequence[Files]) -> Arrival:
    """Let the fleet start before a cold broker."""
    since = time.monotonic()
    async with cold_broker(directory, authority, relay) as (url, operations, pid):
        started, processor = await start_fleet(
            [
                Orders(
                    url=url,
                    authority=str(authority.ca_path),
                    certificates=[(str(one.certificate), str(one.key)) for one in certificates[first::DRIVERS]],
                    references=REFERENCES,
                )
                for first in range(DRIVERS)
            ],
            pid,
        )
        was_disturbed, used = processor.was_taken(), processor.used()
        counted = {
            "handshakes": await operations.series("broker_handshakes_total", outcome="ok"),
            "timeouts": await operations.series("broker_handshakes_total", outcome="timeout"),
            "answered": await operations.series("broker_requests_total", route="/v1/resolve", status="200"),
        }
    return Arrival(started=started, counted=counted, since=since, was_disturbed=was_disturbed, used=used)


@pytest.mark.timeout(300)
async def test_a_thousand_cold_agents_cost_the_store_twenty_reads_and_one_login(tmp_path: Path) -> None:
    store = await asyncio.to_thread(OpenBao, tmp_path / "openbao", audit=tmp_path / "audit.log")
    relay = Relay(store.port)
    await relay.start()
    try:
        authority = await asyncio.to_thread(TestAuthority, tmp_path / "pki")
        certificates = await asyncio.to_thread(lambda: [authority.agent(AGENT) for _ in range(AGENTS)])
        for number in range(ARRIVALS):
            directory = tmp_path / f"broker-{number}"
            await asyncio.to_thread(prepare, store, directory)
            arrival = await arrive(directory, authority, relay, certificates)
            if arrival.counts:
                break
        audited = between(StoreRecord(store).audited(), arrival.since)
    finally:
        await relay.aclose()
        await asyncio.to_thread(store.close)
    if not arrival.counts:
        pytest.skip(f"{ARRIVALS} times others let the agents not connect in time, or the broker have no processor")
    assert Counter(one.failure for one in arrival.started) == {"": AGENTS}
    assert all(one.values == VALUES for one in arrival.started)
    assert {len(one.connects) for one in arrival.started} == {1}, "nobody had to try again"
    assert arrival.counted == {"handshakes": AGENTS, "timeouts": 0, "answered": AGENTS}
    reads, logins = count(audited, "secret/data/start/"), count(audited, "auth/approle/login")
    assert reads <= PATHS
    assert logins == 1
    attempts, answered = between(relay.attempts, arrival.since), arrival.answered
    write_figure(
        "thousand-agents",
        Figure(
            name=f"{AGENTS:,} agents with {PATHS} references each out of {PATHS} paths start within 1 s, broker cold",
            promised=f"all answered at the first try, with at most {PATHS} reads and 1 login in the store's audit log",
            seen=f"all connect within {arrival.seconds:.2f} s; half are answered after {answered[AGENTS // 2]:.1f} s, "
            f"the last after {answered[-1]:.1f} s, in which the broker has {arrival.used:.1f} s of a processor; "
            f"{reads} reads, {logins} login, {len(audited)} requests in the audit log ({len(attempts)} at the relay); "
            f"agents, broker, store and whatever else ran on {os.cpu_count()} cores",
        ),
    )
