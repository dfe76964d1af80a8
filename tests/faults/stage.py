"""Put a scene on, and see to it that what holds for every fault has held."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import TestAuthority
from tests.faults.agents import Agents
from tests.faults.matrix import Fault, write_result
from tests.faults.promises import assert_metrics_count_what_agents_were_told, assert_what_holds_for_every_fault
from tests.faults.record import StoreRecord
from tests.faults.relay import Relay
from tests.faults.scene import Scene
from tests.faults.setting import VALUES, operations_port, write_settings
from tests.openbao import OpenBao


@asynccontextmanager
async def staged(
    row: Fault,
    store: OpenBao,
    directory: Path,
    *,
    record: StoreRecord,
    over_tls: bool = False,
    host: str = "127.0.0.1",
    values: Mapping[str, str] = VALUES,
    **more: Any,
) -> AsyncIterator[Scene]:
    """Yield a scene whose agents are busy; afterwards assert what holds for every fault, and keep the figures."""
    authority = await asyncio.to_thread(TestAuthority, directory / "pki")
    tls = await asyncio.to_thread(_server_context, authority) if over_tls else None
    relay = Relay(store.port, tls=tls)
    await relay.start()
    if over_tls:
        more["ca_file"] = str(authority.ca_path)
    address = relay.address.replace("127.0.0.1", host)
    settings = await asyncio.to_thread(write_settings, directory, authority, [address], more)
    scene = Scene(
        row=row,
        store=store,
        record=record,
        relay=relay,
        agents=await asyncio.to_thread(Agents, authority=authority, references=tuple(values)),
        settings=settings,
        operations_port=await asyncio.to_thread(operations_port, settings),
        authority=authority,
        tls=tls,
        values=values,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(relay.aclose)
        await scene.start_broker()
        stack.push_async_callback(scene.stop_broker)
        stack.push_async_callback(scene.agents.stop)
        await scene.warm()
        yield scene
        await scene.agents.stop()
        await assert_metrics_count_what_agents_were_told(scene)
        await scene.stop_broker()
        # A test that did not get to the healing has failed already.
        if scene.healed_at:
            write_result(row, await assert_what_holds_for_every_fault(scene))


def _server_context(authority: TestAuthority) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.server())
    return context


def row_of(request: pytest.FixtureRequest) -> Fault:
    """Return the row that the test carries."""
    row = request.function.fault
    assert isinstance(row, Fault)
    return row
