"""The store is killed, stopped, sealed: everything that was read is answered, marked, and heals by itself."""

import asyncio

from tests.faults.matrix import fault
from tests.faults.scene import Scene
from tests.faults.setting import STALE


@fault(
    name="Store killed",
    made="`SIGKILL`, later started and unsealed",
    agents=STALE,
    heals_within=20,
    unlogged="connections are refused: nobody is there",
)
async def test_a_killed_store(durable_scene: Scene) -> None:
    scene = durable_scene
    scene.begin()
    await scene.kill_store()
    await scene.serves_stale("can't be reached")
    await scene.start_store()
    await asyncio.to_thread(scene.store.unseal)
    scene.ended()
    await scene.heals()


@fault(name="Store restarted, sealed", made="killed and started, unsealed later", agents=STALE, heals_within=10)
async def test_a_store_that_comes_back_sealed(durable_scene: Scene) -> None:
    scene = durable_scene
    scene.begin()
    await scene.kill_store()
    await scene.start_store()
    await scene.serves_stale("sealed")
    await asyncio.to_thread(scene.store.unseal)
    scene.ended()
    await scene.heals()


@fault(name="Store sealed under load", made="`PUT sys/seal`, then `sys/unseal`", agents=STALE, heals_within=10)
async def test_a_store_sealed_under_load(scene: Scene) -> None:
    scene.begin()
    await asyncio.to_thread(scene.store.seal)
    await scene.serves_stale("sealed")
    await asyncio.to_thread(scene.store.unseal)
    scene.ended()
    await scene.heals()


@fault(
    name="Store stopped",
    made="`SIGSTOP`: connections are accepted and never answered; then `SIGCONT`",
    agents=STALE,
    heals_within=20,
    unlogged="nothing while it stands; what waits for it then comes all at once",
)
async def test_a_stopped_store(scene: Scene) -> None:
    scene.begin()
    await asyncio.to_thread(scene.store.stop)
    await scene.serves_stale("in time")
    await asyncio.to_thread(scene.store.cont)
    scene.ended()
    await scene.heals()


@fault(
    name="Two faults at once",
    made="sealed behind a line that makes every part of an answer 0.5 s late; unsealed, then on time",
    agents=STALE,
    heals_within=15,
)
async def test_two_faults_at_once(scene: Scene) -> None:
    scene.begin()
    scene.relay.delay = 0.5
    await asyncio.to_thread(scene.store.seal)
    await scene.serves_stale("sealed")
    await asyncio.to_thread(scene.store.unseal)
    scene.relay.heal()
    scene.ended()
    await scene.heals()
