"""Where a store limits the rate of requests: how long it is left alone there, and how much it is asked after."""

import asyncio
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from broker.providers.vault.exchange.retry_after import retry_after
from broker.providers.vault.limits.rate_limits import RateLimitedError, RateLimits
from tests.fakes import FakeClock

NOW = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
PER_SECOND = 64.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def limits(clock: FakeClock) -> RateLimits:
    return RateLimits(per_second=PER_SECOND, max_waiting=2, wait_seconds=8.0, clock=clock)


async def refused(limits: RateLimits, place: str = "secret") -> RateLimitedError:
    with pytest.raises(RateLimitedError) as caught:
        await limits.enter(place, reserved=False)
    return caught.value


async def test_nothing_is_asked_before_the_time_that_the_store_names_and_no_other_place_waits(
    limits: RateLimits, clock: FakeClock
) -> None:
    assert limits.limited("secret", sent_at=clock.monotonic(), retry_after=5.0) == 5.0
    assert (await refused(limits)).retry_after == pytest.approx(5.0)
    with pytest.raises(RateLimitedError):
        await limits.enter("secret", reserved=True)
    await limits.enter("other", reserved=False)
    clock.advance(5.0)
    await limits.enter("secret", reserved=False)
    assert limits.lowest == PER_SECOND, "it said when to come, so nothing has to be guessed"


@pytest.mark.parametrize("named", [None, 0.0], ids=["without a time", "with a time in the past"])
async def test_without_a_time_the_budget_of_the_place_is_halved_each_time(
    limits: RateLimits, clock: FakeClock, named: float | None
) -> None:
    for rate in (32, 16, 8):
        limits.limited("secret", sent_at=clock.monotonic(), retry_after=named)
        assert limits.lowest == rate
    clock.advance(60)
    assert limits.lowest == PER_SECOND


async def test_pauses_without_a_time_grow_and_an_answer_lets_them_begin_small_again(
    limits: RateLimits, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.backoff.random.uniform", lambda _low, high: high)
    pauses = []
    for _ in range(8):
        pauses.append(limits.limited("secret", sent_at=clock.monotonic(), retry_after=None))
        limits.answered("secret")
        clock.advance(pauses[-1])
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60], "an answer to what was sent before the pause counts for nothing"
    limits.answered("secret")
    assert limits.limited("secret", sent_at=clock.monotonic(), retry_after=None) == 1


async def test_a_shorter_pause_does_not_end_a_longer_one(limits: RateLimits, clock: FakeClock) -> None:
    limits.limited("secret", sent_at=clock.monotonic(), retry_after=30.0)
    limits.limited("secret", sent_at=clock.monotonic(), retry_after=1.0)
    clock.advance(10)
    assert (await refused(limits)).retry_after == pytest.approx(20)


async def test_a_few_wait_for_the_halved_budget_and_the_others_are_told_to_come_again(
    limits: RateLimits, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits.limited("secret", sent_at=clock.monotonic(), retry_after=0.0)
    gate, turn = asyncio.Event(), asyncio.sleep

    async def sleep(seconds: float) -> None:
        await gate.wait()
        clock.advance(seconds)

    monkeypatch.setattr("broker.providers.vault.limits.budget.asyncio.sleep", sleep)
    waiting = [asyncio.create_task(limits.enter("secret", reserved=False)) for _ in range(2)]
    while limits.waiting("secret") != len(waiting):
        await turn(0)
    assert (await refused(limits)).retry_after == 1.0
    await limits.enter("secret", reserved=True)
    gate.set()
    await asyncio.gather(*waiting)


async def test_a_place_that_has_recovered_is_forgotten(limits: RateLimits, clock: FakeClock) -> None:
    limits.limited("secret", sent_at=clock.monotonic(), retry_after=None)
    clock.advance(200)
    await limits.enter("secret", reserved=False)
    assert limits.waiting("secret") is None


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW.timestamp() + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("86400", 60.0),
        ("9" * 400, 60.0),
        (http_date(20), 20.0),
        (http_date(-20), 0.0),
        (http_date(86_400), 60.0),
        ("Friday, 15-Jan-27 08:00:20 GMT", 20.0),
        ("Fri Jan 15 08:00:20 2027", 20.0),
        *((nonsense, None) for nonsense in ("", "soon", "-1", "1.5", "1e3", "\u0665", "Fri, 45 Jan 2027 08:00:00 GMT")),
    ],
)
def test_the_time_to_wait_is_read_in_both_forms_and_nonsense_is_no_time(text: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": text}, now=NOW.timestamp()) == seconds


def test_a_date_counts_from_the_stores_own_clock() -> None:
    headers = {"Retry-After": http_date(3620), "Date": http_date(3600)}
    assert retry_after(headers, now=NOW.timestamp()) == 20.0


def test_no_header_is_no_time() -> None:
    assert retry_after({}, now=NOW.timestamp()) is None
