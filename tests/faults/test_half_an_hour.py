"""Half an hour without the store, under load, with the clocks advanced and the broker's own pace of probes."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.agents import EVERY
from tests.faults.asked import between
from tests.faults.conftest import before
from tests.faults.matrix import fault
from tests.faults.scene import Scene
from tests.faults.setting import PER_SECOND, VALUES

HALF_AN_HOUR = 1800
STEP = 15
PROBE_SECONDS = 5


@pytest.fixture
async def patient(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    async with before(request, tmp_path, probe_seconds=PROBE_SECONDS) as scene:
        yield scene


@fault(
    name="Half an hour without the store",
    made="sealed; both clocks of the broker are advanced, 15 s at a time, with every agent answered in between",
    agents="`stale`, each answer; at most one request in 5 s reaches the store",
    heals_within=10,
)
async def test_half_an_hour_without_the_store(patient: Scene) -> None:
    scene = patient
    scene.begin()
    await asyncio.to_thread(scene.store.seal)
    await scene.see("stale")
    # Each step waits for an answer to every agent, and there are many. Twenty steps a second, each with its probe, are
    # within the budget of a clock that is not advanced too.
    scene.agents.pause = EVERY / 2
    asked, began, real = len(scene.relay.attempts), scene.clock.monotonic(), time.monotonic()
    while scene.clock.monotonic() - began < HALF_AN_HOUR:
        scene.clock.ahead += STEP
        since = len(scene.agents.seen)
        await scene.until(lambda since=since: len(scene.agents.seen) >= since + 3 * len(VALUES))
    attempts = len(scene.relay.attempts) - asked
    probes = between(await asyncio.to_thread(scene.record.answered), real)
    assert {seen.status for seen in scene.agents.seen if seen.at > real} == {"stale"}
    assert 0 < len(probes) <= attempts <= HALF_AN_HOUR / PROBE_SECONDS + 1, f"{attempts} requests in half an hour"
    scene.agents.pause = EVERY
    await scene.refuse()
    await asyncio.to_thread(scene.store.unseal)
    scene.ended()
    returned = time.monotonic()
    await scene.heals()
    for asked_there in (scene.record.answered, scene.record.audited):
        assert len(between(await asyncio.to_thread(asked_there), returned)) <= PER_SECOND, "no herd at its return"
