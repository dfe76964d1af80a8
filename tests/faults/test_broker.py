"""The broker itself: its clock jumps, and it restarts while the store is away."""

import asyncio

from tests.faults.matrix import fault
from tests.faults.scene import Scene
from tests.faults.setting import VALUES

HOUR = 3600


@fault(
    name="Clock of the broker jumps an hour forth and back",
    made="the wall clock is set, the steady one goes on",
    agents="`ok`",
    heals_within=5,
)
async def test_a_clock_that_jumps(scene: Scene) -> None:
    scene.begin()
    for jump in (HOUR, 0, -HOUR):
        scene.clock.wall_ahead = jump
        since = len(scene.agents.seen)
        await scene.until(lambda since=since: len(scene.agents.seen) > since + 20)
    scene.clock.wall_ahead = 0
    scene.ended()
    await scene.heals()
    assert {seen.status for seen in scene.agents.seen} == {"ok"}
    assert await scene.asked("auth/approle/login") == 1


@fault(
    name="Broker restarts while the store is away",
    made="the store is sealed, the broker stopped and started; later unsealed",
    agents="`stale`, then `unavailable`: a new broker serves nothing old",
    heals_within=30,
)
async def test_a_restart_in_an_outage(scene: Scene) -> None:
    scene.begin()
    await asyncio.to_thread(scene.store.seal)
    await scene.see("stale")
    for reference in VALUES:
        scene.may_see[reference] = {"unavailable"}
    scene.may_lose = True
    await scene.broker.stop()
    await scene.start_broker()
    await scene.see("unavailable")
    await scene.unready("sealed")
    await scene.refuse(*VALUES)
    await asyncio.to_thread(scene.store.unseal)
    scene.ended()
    await scene.heals()
