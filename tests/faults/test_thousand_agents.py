"""A thousand agents start at once before a cold broker, with twenty references each."""

import asyncio
import json
import ssl
import time
from collections import Counter
from pathlib import Path
from typing import Final

import aiohttp

from broker.app import Service
from broker.config_source import read_settings
from tests.certificates import TestAuthority
from tests.faults.figures import Figure, write_figure
from tests.faults.relay import Relay
from tests.faults.scene import AGENT, fill, write_settings
from tests.openbao import OpenBao

AGENTS: Final = 1000
PATHS: Final = 20
REFERENCES: Final = [f"vault:secret/start/{number}#v" for number in range(PATHS)]
# The promise is about the store and about answers. How long a handshake takes is for two cores to say.
PATIENT: Final = {"listen": {"handshake_seconds": 60, "idle_seconds": 60, "max_connections": AGENTS}}


async def test_a_thousand_cold_agents_cost_the_store_twenty_reads_and_one_login(
    own_openbao: OpenBao, tmp_path: Path
) -> None:
    store = own_openbao
    await asyncio.to_thread(fill, store, tmp_path)
    for number in range(PATHS):
        await asyncio.to_thread(store.put_secret, f"start/{number}", v=f"value {number}")
    authority = await asyncio.to_thread(TestAuthority, tmp_path / "pki")
    relay = Relay(store.port)
    await relay.start()
    file = await asyncio.to_thread(
        write_settings, tmp_path, authority, [relay.address], {"requests_per_second": 200, "total_seconds": 30}
    )
    service = await asyncio.to_thread(_service, file)
    context = await asyncio.to_thread(_context, authority)
    await service.start()
    try:
        began = time.monotonic()
        answers = await asyncio.gather(*(_start(service.agent_port, context) for _ in range(AGENTS)))
        spent = time.monotonic() - began
    finally:
        await service.stop()
        await relay.aclose()
    assert Counter(status for status, _ in answers) == {200: AGENTS}
    right = [f"value {number}" for number in range(PATHS)]
    assert all(values == right for _, values in answers)
    reads, logins = relay.reads("/secret/data/start/"), relay.reads("/auth/approle/login")
    assert reads <= PATHS
    assert logins == 1
    write_figure(
        "thousand-agents",
        Figure(
            name=f"{AGENTS:,} agents with {PATHS} references each out of {PATHS} paths connect at once, broker cold",
            promised=f"all answered, at most {PATHS} reads and 1 login at the store",
            seen=f"{len(answers):,} answered in {spent:.1f} s (agents and broker in one process), "
            f"{reads} reads, {logins} login, {len(relay.asked)} requests in all",
        ),
    )


async def _start(port: int, context: ssl.SSLContext) -> tuple[int, list[str]]:
    connector = aiohttp.TCPConnector(ssl=context)
    timeout = aiohttp.ClientTimeout(total=100)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        body = {"references": REFERENCES, "require": "all"}
        async with session.post(f"https://127.0.0.1:{port}/v1/resolve", json=body) as answer:
            document = json.loads(await answer.read())
            return answer.status, [result.get("value") for result in document["results"]]


def _service(file: Path) -> Service:
    settings = json.loads(file.read_text())
    settings["listen"] |= PATIENT["listen"]
    file.write_text(json.dumps(settings))
    policy = json.loads((file.parent / "policy.yaml").read_text())
    policy["rules"][0]["fresh_for"] = "5m"
    (file.parent / "policy.yaml").write_text(json.dumps(policy))
    return Service(settings=read_settings(file, environment={}))


def _context(authority: TestAuthority) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca_path))
    context.load_cert_chain(*authority.agent(AGENT))
    return context
