"""The budget of requests, the pauses after failures, and work that is shared."""

import asyncio
import itertools
import math
from bisect import bisect_left

import pytest

from broker.backoff import Backoff
from broker.errors import SourceUnavailableError
from broker.providers.vault.flight import SingleFlight
from broker.providers.vault.limits.budget import Budget
from tests.fakes import FakeClock


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> list[float]:
    """Let sleeping move the clock, and keep what was slept."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    monkeypatch.setattr("broker.providers.vault.limits.budget.asyncio.sleep", sleep)
    return slept


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.mark.parametrize("per_second", [0.5, 1, 2.5, 7, 19, 20, 33.3, 64, 200, 5000])
async def test_no_second_has_more_than_the_rate_also_after_a_quiet_hour(
    clock: FakeClock, sleeps: list[float], per_second: float
) -> None:
    budget = Budget(per_second=per_second, clock=clock)
    clock.advance(3600)
    moments: list[float] = []
    while len(moments) < 3 * per_second + 1:
        await budget.take(reserved=len(moments) % 3 == 0)
        moments.append(clock.monotonic())
    seconds = max(1.0, 1 / per_second)
    for number, moment in enumerate(moments):
        within = bisect_left(moments, moment + seconds - 1e-6) - number
        assert within <= math.ceil(per_second * seconds)
    assert len(moments) / (moments[-1] - moments[0]) > 0.9 * per_second, "and what goes on for long is hardly less"


async def test_hardly_any_pass_at_once_and_then_the_rate_holds(clock: FakeClock, sleeps: list[float]) -> None:
    budget = Budget(per_second=100, clock=clock)
    budget.take_at_once(reserved=False)
    assert budget.take_at_once(reserved=False) is False
    for _ in range(48):
        await budget.take(reserved=False)
    assert sum(sleeps) == pytest.approx(0.5, abs=0.01)
    assert budget.throttled == 48


@pytest.mark.parametrize("per_second", [20, 100, 5000])
async def test_readers_leave_a_reserve_for_logins(clock: FakeClock, per_second: float) -> None:
    budget = Budget(per_second=per_second, clock=clock)
    while budget.take_at_once(reserved=False):
        pass
    assert budget.take_at_once(reserved=True)


@pytest.mark.parametrize("per_second", [0.5, 1, 2])
async def test_a_small_budget_lets_readers_through_too(
    clock: FakeClock, sleeps: list[float], per_second: float
) -> None:
    budget = Budget(per_second=per_second, clock=clock)
    for _ in range(3):
        await budget.take(reserved=False)
    assert sum(sleeps) <= 3 / per_second


async def test_a_halved_rate_holds_and_grows_back_in_a_minute_to_what_is_set_and_no_further(
    clock: FakeClock, sleeps: list[float]
) -> None:
    budget = Budget(per_second=100, clock=clock)
    budget.halve(sent_at=clock.monotonic())
    assert budget.rate == 50
    for _ in range(50):
        await budget.take(reserved=True)
    assert 0.9 < sum(sleeps) < 1.1, "the bucket was emptied, and fills with fifty a second at first"
    rates = []
    for _ in range(60):
        clock.advance(1)
        rates.append(budget.rate)
    steps = [after - before for before, after in itertools.pairwise(rates) if after < 100]
    assert steps == pytest.approx([100 / 60] * len(steps))
    assert rates[-1] == 100
    clock.advance(3600)
    assert budget.rate == 100


async def test_what_was_sent_together_halves_the_rate_once(clock: FakeClock) -> None:
    budget = Budget(per_second=100, clock=clock)
    sent_at = clock.monotonic()
    clock.advance(0.1)
    for _ in range(20):
        budget.halve(sent_at=sent_at)
    assert budget.rate == 50
    budget.halve(sent_at=clock.monotonic())
    assert budget.rate == 25


@pytest.mark.parametrize(("per_second", "slowest"), [(100, 1.0), (0.5, 0.5)])
async def test_a_rate_never_falls_to_nothing(clock: FakeClock, per_second: float, slowest: float) -> None:
    budget = Budget(per_second=per_second, clock=clock)
    for _ in range(20):
        budget.halve(sent_at=clock.monotonic())
    assert budget.rate == slowest


def test_pauses_are_random_parts_of_a_bound_that_doubles_up_to_a_limit() -> None:
    backoffs = [Backoff(first_seconds=1, limit_seconds=8) for _ in range(200)]
    for bound in (1, 2, 4, 8, 8, 8):
        pauses = [backoff.failed() for backoff in backoffs]
        assert bound / 2 < max(pauses) <= bound
        assert min(pauses) < bound / 2
    backoffs[0].passed()
    assert backoffs[0].failed() <= 1


async def test_whoever_asks_meanwhile_gets_the_result_or_the_error() -> None:
    flights, runs = SingleFlight(), []

    async def work() -> int:
        runs.append(1)
        await asyncio.sleep(0)
        if len(runs) == 2:
            raise SourceUnavailableError("no")
        return 7

    assert await asyncio.gather(*(flights.run("k", work) for _ in range(50))) == [7] * 50
    found = await asyncio.gather(*(flights.run("k", work) for _ in range(50)), return_exceptions=True)
    assert {type(error) for error in found} == {SourceUnavailableError}
    assert len(runs) == 2


async def test_a_cancelled_asker_leaves_the_work_to_the_others() -> None:
    flights, gate = SingleFlight(), asyncio.Event()

    async def work() -> int:
        await gate.wait()
        return 7

    first = asyncio.create_task(flights.run("k", work))
    second = asyncio.create_task(flights.run("k", work))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert await second == 7
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_closing_makes_the_askers_unavailable_and_cancels_nobody() -> None:
    flights = SingleFlight()
    asker = asyncio.create_task(flights.run("k", asyncio.Event().wait))
    await asyncio.sleep(0)
    await flights.aclose()
    with pytest.raises(SourceUnavailableError, match="closing"):
        await asker
