import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from broker.audit.event import EventKind, Outcome
from broker.clock import SystemClock
from broker.errors import PolicyInvalidError
from broker.metrics import Metrics
from broker.policy.current import CurrentPolicy
from broker.policy_file import PolicyFile, load_policy
from broker.reload import Reloader
from tests.fakes import FakeTrail

GOOD = """\
identities:
  shipper: { spiffe: "spiffe://prod.example/shipper", environment: production }
rules:
  - { name: one, allow: ["env:A"], to: [shipper] }
"""


def policy_file(tmp_path: Path, recorder: FakeTrail, seconds: float = 60) -> tuple[Path, CurrentPolicy, Reloader]:
    file = tmp_path / "policy.yaml"
    file.write_text(GOOD)
    current = CurrentPolicy(load_policy(file))
    metrics = Metrics(registry=CollectorRegistry(), version="0")
    part = PolicyFile(file=file, current=current, metrics=metrics, clock=SystemClock())
    return file, current, Reloader(parts=[part], trail=recorder, metrics=metrics, seconds=seconds)


async def test_a_good_file_is_put_in_force_and_recorded(tmp_path: Path) -> None:
    recorder = FakeTrail()
    file, current, watched = await asyncio.to_thread(policy_file, tmp_path, recorder)
    before = current.current
    await asyncio.to_thread(file.write_text, GOOD.replace("env:A", "env:B"))
    assert await watched.reload()
    assert current.current is not before
    [event] = recorder.events
    assert (event.kind, event.outcome) == (EventKind.POLICY, Outcome.SUCCESS)
    assert event.details == {"part": "policy", "before": before.digest, "after": current.current.digest}


@pytest.mark.parametrize("bad", ["", "rules: [", "rules: []\nidentities: {}\n", GOOD + "unknown: 1\n"])
async def test_a_bad_file_keeps_the_old_policy_and_is_recorded(tmp_path: Path, bad: str) -> None:
    recorder = FakeTrail()
    file, current, watched = await asyncio.to_thread(policy_file, tmp_path, recorder)
    before = current.current
    await asyncio.to_thread(file.write_text, bad)
    assert not await watched.reload()
    assert current.current is before
    [event] = recorder.events
    assert event.outcome is Outcome.FAILURE
    assert event.details == {"part": "policy", "in_force": before.digest}


async def test_a_file_that_is_gone_keeps_the_old_policy(tmp_path: Path) -> None:
    file, current, watched = await asyncio.to_thread(policy_file, tmp_path, FakeTrail())
    before = current.current
    await asyncio.to_thread(file.unlink)
    assert not await watched.reload()
    assert current.current is before


async def test_a_change_is_noticed_without_a_signal(tmp_path: Path) -> None:
    file, current, watched = await asyncio.to_thread(policy_file, tmp_path, FakeTrail(), 0.01)
    before = current.current
    watching = asyncio.create_task(watched.watch())
    await asyncio.sleep(0.05)
    await asyncio.to_thread(file.write_text, GOOD.replace("env:A", "env:LONGER"))
    async with asyncio.timeout(10):
        while current.current is before:  # noqa: ASYNC110  The product has no event for a test to wait on.
            await asyncio.sleep(0.01)
    watching.cancel()


async def test_a_failing_trail_does_not_keep_a_good_policy_out(tmp_path: Path) -> None:
    file, current, watched = await asyncio.to_thread(policy_file, tmp_path, FakeTrail(full=True))
    before = current.current
    await asyncio.to_thread(file.write_text, GOOD.replace("env:A", "env:B"))
    assert await watched.reload()
    assert current.current is not before


def test_a_bad_file_at_the_start_is_an_error_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(GOOD + "unknown: 1\n")
    with pytest.raises(PolicyInvalidError) as raised:
        load_policy(file)
    assert raised.value.line == 5
    with pytest.raises(PolicyInvalidError, match="nothing"):
        load_policy(tmp_path / "nothing")
