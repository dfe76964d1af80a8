"""What the store mints for agents, when the lease or the database behind it goes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import before
from tests.faults.matrix import fault
from tests.faults.scene import Scene
from tests.openbao import OpenBao
from tests.postgres import PostgreSQL, postgres

__all__ = ["postgres"]

SHORT, LONG, LATER = "short", "long", "later"


@pytest.fixture
async def minting(
    request: pytest.FixtureRequest, tmp_path: Path, postgres: PostgreSQL
) -> AsyncIterator[tuple[Scene, PostgreSQL]]:
    def prepare(store: OpenBao) -> None:
        postgres.behind(store)
        postgres.role(store, SHORT, default_ttl="3s")
        postgres.role(store, LONG)
        postgres.role(store, LATER)

    async with before(request, tmp_path, prepare=prepare) as scene:
        yield scene, postgres


async def credential(scene: Scene, role: str) -> dict[str, Any]:
    _, document, _ = await scene.agents.ask(
        f"vault:database/creds/{role}#username", f"vault:database/creds/{role}#password"
    )
    user, password = document["results"]
    return {"status": user["status"], "user": user.get("value"), "password": password.get("value")}


@fault(
    name="Lease revoked behind the broker's back",
    made="the store revokes every lease of a role whose credentials are renewed each 2 s",
    agents="the dead credential until its renewal is due, then a new one; every other secret `ok`",
    heals_within=10,
)
async def test_a_lease_revoked_behind_the_brokers_back(minting: tuple[Scene, PostgreSQL]) -> None:
    scene, postgres = minting
    first = await credential(scene, SHORT)
    assert await asyncio.to_thread(postgres.logs_in, first["user"], first["password"])
    scene.begin()
    await asyncio.to_thread(scene.store.request, "PUT", f"sys/leases/revoke-prefix/database/creds/{SHORT}", {})
    assert not await asyncio.to_thread(postgres.logs_in, first["user"], first["password"])
    scene.ended()
    second = first
    while second["user"] == first["user"]:
        await asyncio.sleep(0.1)
        second = await credential(scene, SHORT)
    assert second["status"] == "ok"
    assert await asyncio.to_thread(postgres.logs_in, second["user"], second["password"])
    await scene.heals()
    assert scene.statuses() == {"ok"}


@fault(
    name="PostgreSQL behind the store's engine gone",
    made="the database is stopped, later started",
    agents="what was minted before as it was; new credentials `unavailable`; every other secret `ok`",
    heals_within=20,
)
async def test_the_database_behind_the_engine_gone(minting: tuple[Scene, PostgreSQL]) -> None:
    scene, postgres = minting
    held = await credential(scene, LONG)
    assert held["status"] == "ok"
    scene.begin()
    await asyncio.to_thread(postgres.stop)
    assert await credential(scene, LONG) == held
    await scene.refuse(f"vault:database/creds/{LATER}#username")
    await asyncio.sleep(2)
    await scene.stays_ready()
    await asyncio.to_thread(postgres.start)
    scene.ended()
    minted = await credential(scene, LATER)
    while minted["status"] != "ok":
        await asyncio.sleep(0.1)
        minted = await credential(scene, LATER)
    assert await asyncio.to_thread(postgres.logs_in, minted["user"], minted["password"])
    assert await credential(scene, LONG) == held
    await scene.heals()
    assert scene.statuses() == {"ok"}
