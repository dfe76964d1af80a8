"""One namespace of the store is shut, and the store as a whole serves: nobody else loses anything by that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.faults.asked import between, count
from tests.faults.conftest import before
from tests.faults.matrix import fault
from tests.faults.scene import Scene
from tests.faults.setting import PROBE_SECONDS, READER, VALUES
from tests.openbao import OpenBao

TEAM: Final = "vault:team/kv/app#v"
NEVER_READ: Final = "vault:team/kv/cold#v"
ALONE: Final = "its secrets: `ok`, then `stale`; `unavailable` what was never read there; every other one `ok`"


@asynccontextmanager
async def with_team(request: pytest.FixtureRequest, directory: Path, *, sealable: bool) -> AsyncIterator[Scene]:
    """Yield a scene whose agents ask for a secret of the namespace `team` too."""

    def prepare(store: OpenBao) -> None:
        store.namespace("team", sealable=sealable)
        assert store.request("POST", "sys/mounts/kv", {"type": "kv"}, namespace="team").status == 204
        for name in ("app", "cold"):
            assert store.request("POST", f"kv/{name}", {"v": f"{name} of the team"}, namespace="team").status == 204
        store.policy("broker", READER + 'path "team/kv/*" { capabilities = ["read"] }')

    async with before(request, directory, prepare=prepare, values={**VALUES, TEAM: "app of the team"}) as scene:
        yield scene


@pytest.fixture
async def sealable(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    async with with_team(request, tmp_path, sealable=True) as scene:
        yield scene


@pytest.fixture
async def lockable(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    async with with_team(request, tmp_path, sealable=False) as scene:
        yield scene


@fault(
    name="Namespace sealed",
    made="`sys/namespaces/team/seal` under load, later unsealed; the store is not sealed",
    agents=ALONE,
    heals_within=10,
)
async def test_a_sealed_namespace(sealable: Scene) -> None:
    await is_shut_alone_and_heals(sealable)


@fault(
    name="Namespace locked",
    made="`sys/namespaces/api-lock/lock/team` under load, later unlocked",
    agents=ALONE,
    heals_within=10,
)
async def test_a_locked_namespace(lockable: Scene) -> None:
    await is_shut_alone_and_heals(lockable)


async def is_shut_alone_and_heals(scene: Scene) -> None:
    with ExitStack() as shut:
        scene.begin()
        await asyncio.to_thread(shut.enter_context, scene.store.shut("team"))
        await scene.see("stale", TEAM)
        since = len(scene.agents.seen)
        await scene.refuse(NEVER_READ)
        await scene.until(lambda: sum(seen.reference == TEAM for seen in scene.agents.seen[since:]) > 60)
        told = scene.agents.seen[since:]
        assert {seen.status for seen in told if seen.reference == TEAM} == {"stale"}
        assert {seen.status for seen in scene.since(scene.began_at) if seen.reference in VALUES} == {"ok"}
        await scene.stays_ready()
        assert await scene.operations.series("broker_upstream_shut_places", provider="vault") == 1
        asked = between(scene.relay.asked, scene.began_at)
        await asyncio.to_thread(shut.close)
    scene.ended()
    # One that was on its way, one that finds it shut, and then a probe at a time.
    assert 1 <= count(asked, "/team/kv/") <= 3 + (scene.ended_at - scene.began_at) / PROBE_SECONDS
    assert count(asked, "/secret/") > count(asked, "/team/kv/")
    await scene.heals()
    assert await scene.operations.series("broker_upstream_shut_places", provider="vault") == 0
