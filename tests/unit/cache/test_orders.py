"""The cache under orders: what is forgotten, what is read again, and what serves meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.cache.cache import Cache
from broker.errors import MissingPart, SecretMissingError, SourceUnavailableError, UpstreamDeniedError
from broker.pattern import parse_pattern
from broker.reference import Source
from tests.fakes import FakeClock, FakeProvider, fake_metrics, text_reading

KEY = Source("vault", "secret/app")
OTHER = Source("vault", "secret/team/other")
CLOCKS = {"fresh_for": 300.0, "max_stale": 3600.0}


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.provider = FakeProvider({KEY.path: text_reading("one"), OTHER.path: text_reading("other")})
        self.cache = Cache(
            clock=self.clock,
            metrics=fake_metrics(),
            max_entries=2000,
            max_bytes=100_000,
            fetch_seconds=5.0,
            refresh_wait=0.02,
        )

    async def value(self, source: Source = KEY) -> tuple[str, bool]:
        cached = await self.cache.get(source, fetch=self.provider.fetch, **CLOCKS)
        return cached.reading.document.select(()).reveal().decode(), cached.stale

    def says(self, answer: str | Exception, source: Source = KEY) -> None:
        self.provider.sources[source.path] = text_reading(answer) if isinstance(answer, str) else answer

    async def let_read(self) -> None:
        for _ in range(5):
            self.cache.refresh_due()
            await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.cache.aclose()


async def test_what_is_invalidated_is_read_again_by_whoever_asks_next(bench: Bench) -> None:
    await bench.value()
    bench.says("two")
    assert await bench.cache.invalidate(parse_pattern("vault:secret/app").touches_source) == 1
    assert await bench.value() == ("two", False)


async def test_what_is_invalidated_serves_nobody_while_the_source_is_away(bench: Bench) -> None:
    await bench.value()
    bench.says(SourceUnavailableError("down"))
    await bench.cache.invalidate(None)
    with pytest.raises(SourceUnavailableError):
        await bench.value()


async def test_an_order_leaves_alone_what_it_does_not_name(bench: Bench) -> None:
    await bench.value()
    await bench.value(OTHER)
    assert await bench.cache.invalidate(parse_pattern("vault:secret/team/**").touches_source) == 1
    await bench.value()
    await bench.value(OTHER)
    assert bench.provider.fetched == [KEY, OTHER, OTHER]


async def test_a_read_under_way_is_not_remembered_after_an_invalidation(bench: Bench) -> None:
    bench.provider.gate = asyncio.Event()
    early = asyncio.create_task(bench.value())
    await bench.provider.began.wait()
    assert await bench.cache.invalidate(None) == 1
    bench.provider.gate.set()
    assert await early == ("one", False)
    bench.says("two")
    assert await bench.value() == ("two", False)


async def test_what_is_refreshed_is_read_again_behind_though_nobody_asks(bench: Bench) -> None:
    await bench.value()
    bench.says("two")
    assert await bench.cache.renew(None) == 1
    bench.clock.advance(1)
    await bench.let_read()
    assert bench.provider.fetched == [KEY, KEY]
    assert await bench.value() == ("two", False)
    assert bench.provider.fetched == [KEY, KEY]


async def test_what_is_refreshed_is_read_at_once_for_whoever_asks(bench: Bench) -> None:
    await bench.value()
    bench.says("two")
    await bench.cache.renew(None)
    assert await bench.value() == ("two", False)


async def test_what_is_refreshed_serves_as_stale_while_the_source_is_away(bench: Bench) -> None:
    await bench.value()
    bench.says(SourceUnavailableError("down"))
    await bench.cache.renew(None)
    bench.clock.advance(1)
    assert await bench.value() == ("one", True)
    bench.clock.advance(3600)
    with pytest.raises(SourceUnavailableError):
        await bench.value()


async def test_a_read_that_began_before_a_refresh_does_not_answer_it(bench: Bench) -> None:
    await bench.value()
    bench.clock.advance(301)
    bench.provider.gate = asyncio.Event()
    bench.provider.began.clear()
    early = asyncio.create_task(bench.value())
    await bench.provider.began.wait()
    await bench.cache.renew(None)
    bench.provider.gate.set()
    await early
    bench.says("two")
    assert await bench.value() == ("two", False)


async def test_a_large_refresh_is_spread_over_time(bench: Bench) -> None:
    sources = [Source("vault", f"secret/n/{number}") for number in range(1000)]
    for source in sources:
        bench.says("x", source)
        await bench.value(source)
    bench.provider.fetched.clear()
    assert await bench.cache.renew(None) == 1000
    bench.clock.advance(2)
    await bench.let_read()
    assert 10 < len(bench.provider.fetched) < 300
    bench.clock.advance(18)
    await bench.let_read()
    assert len(bench.provider.fetched) == 1000


@pytest.mark.parametrize("error", [SecretMissingError("gone", part=MissingPart.DELETED), UpstreamDeniedError("no")])
async def test_a_refresh_behind_that_meets_a_deletion_or_a_denial_drops_the_value(
    bench: Bench, error: Exception
) -> None:
    await bench.value()
    await bench.value()
    bench.says(error)
    bench.clock.advance(300)
    await bench.let_read()
    assert bench.provider.fetched == [KEY, KEY]
    bench.says(SourceUnavailableError("down"))
    bench.clock.advance(60)
    with pytest.raises(SourceUnavailableError):
        await bench.value()


async def test_a_refresh_behind_that_meets_an_outage_keeps_the_value(bench: Bench) -> None:
    await bench.value()
    await bench.value()
    bench.says(SourceUnavailableError("down"))
    bench.clock.advance(300)
    await bench.let_read()
    assert bench.provider.fetched == [KEY, KEY]
    assert await bench.value() == ("one", False)


@pytest.mark.parametrize("order", ["invalidate", "renew"])
async def test_an_order_ends_what_is_remembered_as_missing(bench: Bench, order: str) -> None:
    bench.says(SecretMissingError("gone", part=MissingPart.PATH))
    with pytest.raises(SecretMissingError):
        await bench.value()
    bench.says("one")
    with pytest.raises(SecretMissingError):
        await bench.value()
    assert await getattr(bench.cache, order)(None) == 1
    assert await bench.value() == ("one", False)
