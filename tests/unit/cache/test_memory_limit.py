"""The cache gives way before the memory limit is reached: when, how often it is looked, and what is told."""

import asyncio
import logging
from typing import Self

import pytest

from broker.cache.cache import Cache
from broker.cache.control_group import MemoryUse
from broker.cache.memory_limit import MemoryLimit, next_look
from broker.reference import Source
from tests.fakes import FakeClock, FakeProvider, fake_metrics, text_reading
from tests.waiting import until

CLOCKS = {"fresh_for": 300.0, "max_stale": 3600.0}


async def filled_cache() -> Cache:
    provider = FakeProvider({str(number): text_reading("x" * 100) for number in range(8)})
    cache = Cache(clock=FakeClock(), metrics=fake_metrics(), max_entries=99, max_bytes=9999, fetch_seconds=5)
    for number in range(8):
        await cache.get(Source("vault", str(number)), **CLOCKS, fetch=provider.fetch)
    return cache


async def test_half_of_the_cache_goes_and_what_was_used_last_stays() -> None:
    cache = await filled_cache()
    cache.lookup(Source("vault", "0"), **CLOCKS)
    assert cache.give_way() == 400
    kept = [number for number in range(8) if cache.lookup(Source("vault", str(number)), **CLOCKS)]
    assert kept == [0, 5, 6, 7]
    await cache.aclose()


class Giver:
    """Holds so many bytes, and counts how often it gives way."""

    def __init__(self, holds: int = 1024) -> None:
        self.holds = holds
        self.asked = 0
        self.growth: list[int] = []

    def grow_at_most(self, size: int) -> None:
        self.growth.append(size)

    def give_way(self) -> int:
        self.asked += 1
        freed = self.holds - self.holds // 2
        self.holds -= freed
        return freed


class Look:
    """Says the same use until the test changes it, and counts how often it was looked."""

    def __init__(self, use: MemoryUse | None) -> None:
        self.use = use
        self.looks = 0

    def __call__(self) -> MemoryUse | None:
        self.looks += 1
        return self.use

    async def happens(self, *, more: int = 3) -> None:
        before = self.looks
        await until(lambda: self.looks >= before + more)


class Kept:
    """A running `MemoryLimit` and its parts."""

    def __init__(self, use: MemoryUse | None, *, holds: int = 1024) -> None:
        self.look, self.cache, self.clock, self.metrics = Look(use), Giver(holds), FakeClock(), fake_metrics()
        self._limit = MemoryLimit(cache=self.cache, metrics=self.metrics, clock=self.clock, look=self.look)
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._limit.keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    def series(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)


async def test_the_cache_gives_way_when_memory_is_high_and_not_before() -> None:
    async with Kept(MemoryUse(limit=1000, used=850)) as kept:
        await kept.look.happens()
        assert kept.cache.asked == 0
        kept.look.use = MemoryUse(limit=1000, used=851)
        await until(lambda: kept.cache.asked > 0)
        await until(lambda: kept.series("broker_cache_gave_way_total") == 11.0)
        # Nothing is left to give, which is no event.
        await kept.look.happens()
        assert kept.series("broker_cache_gave_way_total") == 11.0


async def test_until_the_next_look_the_cache_may_grow_by_half_of_what_is_left() -> None:
    async with Kept(MemoryUse(limit=1000, used=650)) as kept:
        await kept.look.happens()
        assert kept.cache.growth[-1] == 100
        kept.look.use = MemoryUse(limit=1000, used=900)
        await until(lambda: kept.cache.growth[-1] == 0)


async def test_what_would_let_the_cache_grow_further_takes_the_place_of_what_was_used_least() -> None:
    cache = await filled_cache()
    cache.grow_at_most(100)
    provider = FakeProvider({f"later-{number}": text_reading("x" * 100) for number in range(3)})
    for number in range(3):
        await cache.get(Source("vault", f"later-{number}"), **CLOCKS, fetch=provider.fetch)
    kept = [number for number in range(8) if cache.lookup(Source("vault", str(number)), **CLOCKS)]
    assert kept == [2, 3, 4, 5, 6, 7]
    cache.grow_at_most(10_000)
    await cache.aclose()


async def test_the_limit_and_the_use_are_series() -> None:
    async with Kept(MemoryUse(limit=1000, used=500)) as kept:
        await kept.look.happens(more=1)
        await until(lambda: kept.series("broker_memory_limit_bytes") == 1000)
        assert kept.series("broker_memory_used_bytes") == 500


async def test_without_a_limit_the_series_are_no_numbers_and_nothing_gives_way() -> None:
    async with Kept(None) as kept:
        await kept.look.happens(more=1)
        assert kept.series("broker_memory_limit_bytes") != kept.series("broker_memory_limit_bytes")
        assert kept.cache.asked == 0


@pytest.mark.parametrize(
    ("use", "seconds"),
    [
        (MemoryUse(limit=4 * 1024**3, used=0), 1.0),
        (None, 1.0),
        (MemoryUse(limit=640 * 1024**2, used=32 * 1024**2), 1.0),
        (MemoryUse(limit=640 * 1024**2, used=288 * 1024**2), 0.5),
        (MemoryUse(limit=640 * 1024**2, used=544 * 1024**2), 0.02),
        (MemoryUse(limit=640 * 1024**2, used=640 * 1024**2), 0.02),
    ],
)
def test_the_less_is_left_the_sooner_it_is_looked_again(use: MemoryUse | None, seconds: float) -> None:
    assert next_look(use) == pytest.approx(seconds)


async def test_the_log_is_told_once_a_minute_with_all_that_went_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="broker.memory")
    async with Kept(MemoryUse(limit=1000, used=900)) as kept:
        await until(lambda: kept.cache.holds == 0)
        await kept.look.happens()
        kept.clock.advance(61)
        kept.cache.holds = 4
        await until(lambda: kept.cache.holds == 0)
        await kept.look.happens()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "memory_high limit_bytes=1000 used_bytes=900 cache_bytes_freed=512",
        "memory_high limit_bytes=1000 used_bytes=900 cache_bytes_freed=514",
    ]
