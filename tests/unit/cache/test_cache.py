"""The cache: two clocks, single flight, bounds."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.cache.cache import Cache
from broker.errors import (
    FetchError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.providers.vault.limits.breaker import BreakerOpenError
from broker.reference import Source
from broker.secret import Facts, Reading
from tests.fakes import START, FakeClock, FakeProvider, fake_metrics, text_reading

KEY = Source("vault", "secret/app")
OTHER = Source("vault", "secret/other")
CLOCKS = {"fresh_for": 300.0, "max_stale": 3600.0}


class Bench:
    def __init__(self, **options: object) -> None:
        self.clock = FakeClock()
        self.metrics = fake_metrics()
        self.provider = FakeProvider({KEY.path: text_reading("one"), OTHER.path: text_reading("other")})
        bounds = {"max_entries": 10, "max_bytes": 1000, "fetch_seconds": 5.0, "refresh_wait": 0.02, **options}
        self.cache = Cache(clock=self.clock, metrics=self.metrics, **bounds)

    async def value(self, source: Source = KEY, **clocks: float) -> tuple[str, bool]:
        cached = await self.cache.get(source, fetch=self.provider.fetch, **{**CLOCKS, **clocks})
        return cached.reading.document.select(()).reveal().decode(), cached.stale

    def says(self, answer: object, source: Source = KEY) -> None:
        self.provider.sources[source.path] = text_reading(answer) if isinstance(answer, str) else answer

    @property
    def reads(self) -> int:
        return len(self.provider.fetched)

    def counted(self, result: str) -> float:
        return self.metrics.registry.get_sample_value("broker_cache_lookups_total", {"result": result}) or 0.0


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.cache.aclose()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


DOWN = SourceUnavailableError("down")
FINAL = [
    SecretMissingError("gone", part=MissingPart.DELETED),
    UpstreamDeniedError("no"),
    SecretUnusableError("too large"),
]


async def test_within_the_first_clock_memory_answers(bench: Bench) -> None:
    assert await bench.value() == ("one", False)
    bench.says("two")
    bench.clock.advance(269)  # The last tenth may refresh early.
    assert await bench.value() == ("one", False)
    assert bench.reads == 1
    assert (bench.counted("miss"), bench.counted("hit")) == (1, 1)


async def test_an_early_refresh_does_not_make_its_caller_wait(bench: Bench) -> None:
    await bench.value()
    bench.says("two")
    bench.provider.gate = asyncio.Event()
    bench.clock.advance(300)
    assert await bench.value() == ("one", False)
    bench.provider.gate.set()
    await settle()
    assert await bench.value() == ("two", False)
    assert bench.reads == 2


async def test_past_the_first_clock_a_good_refresh_answers_fresh(bench: Bench) -> None:
    await bench.value()
    bench.says("two")
    bench.clock.advance(301)
    assert await bench.value() == ("two", False)


async def test_past_the_first_clock_a_failing_source_gives_the_stale_value(bench: Bench) -> None:
    await bench.value()
    bench.says(DOWN)
    bench.clock.advance(301)
    assert await bench.value() == ("one", True)
    assert bench.counted("stale") == 1


async def test_past_the_first_clock_a_slow_source_gives_the_stale_value_and_its_answer_later(bench: Bench) -> None:
    await bench.value()
    bench.says("two")
    bench.provider.gate = asyncio.Event()
    bench.clock.advance(301)
    assert await bench.value() == ("one", True)
    bench.provider.gate.set()
    await settle()
    assert await bench.value() == ("two", False)
    assert bench.reads == 2


async def test_past_the_second_clock_the_value_is_gone(bench: Bench) -> None:
    await bench.value()
    bench.says(DOWN)
    bench.clock.advance(3600)
    assert await bench.value() == ("one", True)
    bench.clock.advance(1)
    with pytest.raises(SourceUnavailableError):
        await bench.value()


async def test_zero_switches_the_second_clock_off(bench: Bench) -> None:
    await bench.value(max_stale=0)
    bench.says(DOWN)
    bench.clock.advance(301)
    with pytest.raises(SourceUnavailableError):
        await bench.value(max_stale=0)


async def test_a_shorter_second_clock_bounds_the_first(bench: Bench) -> None:
    await bench.value()
    bench.says(DOWN)
    bench.clock.advance(61)
    with pytest.raises(SourceUnavailableError):
        await bench.value(fresh_for=300, max_stale=60)


async def test_a_jump_of_the_wall_clock_makes_nothing_older_or_younger(bench: Bench) -> None:
    await bench.value()
    bench.clock.wall += 86_400
    assert await bench.value() == ("one", False)
    bench.clock.wall -= 2 * 86_400
    bench.says(DOWN)
    bench.clock.steady += 3601
    with pytest.raises(SourceUnavailableError):
        await bench.value()


@pytest.mark.parametrize("error", FINAL, ids=lambda error: error.code)
async def test_a_refusal_seen_upstream_drops_the_value_at_once(bench: Bench, error: FetchError) -> None:
    await bench.value()
    bench.says(error)
    bench.clock.advance(301)
    with pytest.raises(type(error)):
        await bench.value()
    bench.says(DOWN)
    bench.clock.advance(3)
    with pytest.raises(SourceUnavailableError):
        await bench.value()


async def test_a_refusal_that_comes_after_the_stale_answer_drops_the_value(bench: Bench) -> None:
    await bench.value()
    bench.says(FINAL[0])
    bench.provider.gate = asyncio.Event()
    bench.clock.advance(301)
    assert await bench.value() == ("one", True)
    bench.provider.gate.set()
    await settle()
    assert bench.cache.lookup(KEY, fresh_for=9999, max_stale=9999) is None


async def test_the_end_that_the_source_names_bounds_both_clocks(bench: Bench) -> None:
    bench.provider.sources[KEY.path] = text_reading("one", not_after=START + 100)
    cached = await bench.cache.get(KEY, fetch=bench.provider.fetch, **CLOCKS)
    assert (cached.fetched_at, cached.fresh_until, cached.stale_until) == (START, START + 100, START + 100)
    bench.says(DOWN)
    bench.clock.advance(99)
    assert await bench.value() == ("one", False)
    bench.clock.advance(1)
    with pytest.raises(SourceUnavailableError):
        await bench.value()


async def test_the_answer_names_the_ends_of_both_clocks(bench: Bench) -> None:
    cached = await bench.cache.get(KEY, fetch=bench.provider.fetch, **CLOCKS)
    assert (cached.fetched_at, cached.fresh_until, cached.stale_until) == (START, START + 300, START + 3600)


async def test_a_hundred_callers_cost_one_read(bench: Bench) -> None:
    bench.provider.gate = asyncio.Event()
    calls = [asyncio.create_task(bench.value()) for _ in range(100)]
    await settle()
    bench.provider.gate.set()
    assert set(await asyncio.gather(*calls)) == {("one", False)}
    assert bench.reads == 1
    assert (bench.counted("miss"), bench.counted("joined")) == (1, 99)


async def test_a_cancelled_caller_does_not_cancel_the_read_of_the_others(bench: Bench) -> None:
    bench.provider.gate = asyncio.Event()
    first, second = asyncio.create_task(bench.value()), asyncio.create_task(bench.value())
    await settle()
    first.cancel()
    await asyncio.wait({first})
    bench.provider.gate.set()
    assert await second == ("one", False)
    assert bench.reads == 1


async def test_an_error_is_told_to_everyone_who_waits(bench: Bench) -> None:
    bench.says(FINAL[0])
    calls = [asyncio.create_task(bench.value()) for _ in range(3)]
    assert {type(error) for error in await asyncio.gather(*calls, return_exceptions=True)} == {SecretMissingError}
    assert bench.reads == 1


@pytest.mark.parametrize("error", FINAL, ids=lambda error: error.code)
async def test_who_asks_in_a_loop_for_what_is_not_there_costs_one_read_in_the_time_that_it_is_remembered(
    bench: Bench, error: FetchError
) -> None:
    bench.says(error)
    for _ in range(29):
        with pytest.raises(type(error)):
            await bench.value()
        bench.clock.advance(0.1)
    assert bench.reads == 1
    assert bench.counted("refused") == 28
    bench.says("back")
    bench.clock.advance(0.2)
    assert await bench.value() == ("back", False)


async def test_a_source_that_fails_is_asked_at_a_growing_pace_and_the_answer_names_the_time_to_wait(
    bench: Bench,
) -> None:
    bench.says(DOWN)
    for _ in range(600):
        with pytest.raises(SourceUnavailableError):
            await bench.value()
        bench.clock.advance(0.1)
    # A minute of pauses, each a random part of at most 8 s: hardly ever below 9 reads, and 30 are out of question.
    assert 5 <= bench.reads <= 40
    bench.says("back")
    bench.clock.advance(8)
    assert await bench.value() == ("back", False)


async def test_what_was_held_back_before_the_source_was_asked_is_not_remembered(bench: Bench) -> None:
    bench.says(BreakerOpenError("away", retry_after=4.0))
    with pytest.raises(SourceUnavailableError):
        await bench.value()
    bench.says("back")
    assert await bench.value() == ("back", False)


@pytest.mark.parametrize("forget", ["drop", "clear"])
async def test_an_invalidation_forgets_what_is_missing_too(bench: Bench, forget: str) -> None:
    bench.says(FINAL[0])
    with pytest.raises(SecretMissingError):
        await bench.value()
    bench.says("back")
    getattr(bench.cache, forget)(*([KEY] if forget == "drop" else []))
    assert await bench.value() == ("back", False)


async def test_who_wants_it_younger_is_not_answered_by_an_older_refusal(bench: Bench) -> None:
    bench.says(FINAL[0])
    with pytest.raises(SecretMissingError):
        await bench.value()
    bench.clock.advance(1.5)
    bench.says("back")
    assert await bench.value(fresh_for=1.0, max_stale=1.0) == ("back", False)


async def test_refusals_are_bounded_in_number(bench: Bench) -> None:
    for number in range(50):
        with pytest.raises(SecretMissingError):
            await bench.value(Source("vault", f"secret/none/{number}"))
    assert len(bench.cache._refusals._refusals) == 10


async def test_failing_refreshes_leave_growing_pauses(bench: Bench) -> None:
    await bench.value()
    bench.says(DOWN)
    bench.clock.advance(301)
    for _ in range(10):
        assert await bench.value() == ("one", True)
    assert bench.reads == 2
    bench.clock.advance(1)
    await bench.value()
    assert bench.reads == 3


async def test_a_read_that_takes_too_long_is_unavailable() -> None:
    bench = Bench(fetch_seconds=0.01)
    bench.provider.gate = asyncio.Event()
    with pytest.raises(SourceUnavailableError, match="in time"):
        await bench.value()
    await bench.cache.aclose()


async def test_the_least_recently_used_source_makes_room() -> None:
    bench = Bench(max_entries=2)
    third = Source("vault", "secret/third")
    bench.says("three", third)
    for source in (KEY, OTHER, KEY, third):
        await bench.value(source)
    assert bench.cache.lookup(OTHER, **CLOCKS) is None
    assert bench.cache.lookup(KEY, **CLOCKS) is not None
    assert bench.metrics.registry.get_sample_value("broker_cache_evictions_total") == 1
    await bench.cache.aclose()


async def test_bytes_are_bounded_and_a_reading_over_the_bound_is_answered_and_not_kept() -> None:
    bench = Bench(max_bytes=8)
    bench.says("x" * 9)
    assert await bench.value() == ("x" * 9, False)
    assert bench.metrics.registry.get_sample_value("broker_cache_entries") == 0
    bench.says("x" * 6)
    await bench.value()
    await bench.value(OTHER)
    assert bench.metrics.registry.get_sample_value("broker_cache_bytes") == len("other")
    await bench.cache.aclose()


async def test_a_drop_is_final_for_a_read_that_is_under_way(bench: Bench) -> None:
    bench.provider.gate = asyncio.Event()
    waiting = asyncio.create_task(bench.value())
    await settle()
    bench.cache.drop(KEY)
    bench.provider.gate.set()
    assert await waiting == ("one", False)
    assert bench.cache.lookup(KEY, **CLOCKS) is None


async def test_clear_forgets_everything(bench: Bench) -> None:
    await bench.value()
    await bench.value(OTHER)
    bench.cache.clear()
    assert bench.metrics.registry.get_sample_value("broker_cache_bytes") == 0
    assert bench.cache.lookup(KEY, **CLOCKS) is None


async def test_closing_ends_reads_and_can_be_done_twice(bench: Bench) -> None:
    bench.provider.gate = asyncio.Event()
    waiting = asyncio.create_task(bench.value())
    await settle()
    await bench.cache.aclose()
    await bench.cache.aclose()
    with pytest.raises(SourceUnavailableError):
        await waiting
    with pytest.raises(SourceUnavailableError):
        await bench.value()


async def test_a_bug_in_a_provider_reaches_its_caller_and_hangs_nobody(bench: Bench) -> None:
    bench.provider.sources[KEY.path] = RuntimeError("bug")
    with pytest.raises(RuntimeError):
        await bench.value()
    bench.says("one")
    assert await bench.value() == ("one", False)


STEPS = st.lists(
    st.tuples(st.integers(0, 400), st.booleans(), st.sampled_from([50, 100, 200]), st.sampled_from([0, 100, 300])),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS)
def test_no_answer_is_ever_older_than_its_clocks_allow(steps: list[tuple[int, bool, int, int]]) -> None:
    async def run() -> None:
        bench = Bench()
        read_at: dict[str, float] = {}
        failed_at = 0.0
        for number, (seconds, up, fresh_for, max_stale) in enumerate(steps):
            bench.clock.advance(seconds)
            bench.says(str(number) if up else DOWN)
            gone_after = max_stale or fresh_for
            alive = any(bench.clock.steady - born <= gone_after for born in list(read_at.values())[-1:])
            before = bench.reads
            try:
                text, stale = await bench.value(fresh_for=fresh_for, max_stale=max_stale)
            except SourceUnavailableError:
                # A source that has just failed is left alone for a while.
                assert not up or bench.clock.steady - failed_at <= 8
                assert not alive
                failed_at = failed_at if up else bench.clock.steady
                continue
            finally:
                if bench.reads > before and up:
                    read_at[str(number)] = bench.clock.steady
            # An early refresh lands behind the answer; let it, so that the model knows what is remembered.
            await settle()
            failed_at = failed_at if up else bench.clock.steady
            if bench.reads > before and up:
                read_at[str(number)] = bench.clock.steady
            age = bench.clock.steady - read_at[text]
            assert age <= gone_after
            assert stale == (age > min(fresh_for, gone_after))
            assert not (stale and up and bench.reads > before)
        await bench.cache.aclose()

    asyncio.run(run())


async def test_the_outlook_counts_what_can_still_be_used_and_when_it_ends() -> None:
    bench = Bench()
    bench.says(text_reading("one", created_at=START - 60))
    await bench.value(max_stale=600)
    bench.clock.advance(100)
    await bench.value(OTHER, max_stale=3600)
    outlook = await bench.cache.outlook(("vault", "env"))
    assert (outlook["vault"].usable, outlook["env"].usable) == (2, 0)
    assert (outlook["vault"].next_end, outlook["vault"].last_end) == (START + 600, START + 3700)
    assert outlook["vault"].oldest == START - 60
    bench.clock.advance(501)
    outlook = await bench.cache.outlook(("vault",))
    assert (outlook["vault"].usable, outlook["vault"].oldest) == (1, None)
    await bench.cache.aclose()


async def test_the_outlook_knows_the_end_that_the_source_itself_gave() -> None:
    bench = Bench()
    bench.says(text_reading("one", not_after=START + 50))
    await bench.value()
    assert (await bench.cache.outlook(("vault",)))["vault"].next_end == START + 50
    await bench.cache.aclose()


async def test_the_outlook_of_a_large_memory_lets_others_run_meanwhile() -> None:
    bench = Bench(max_entries=2000, max_bytes=1_000_000)
    for number in range(1200):
        source = Source("vault", f"secret/{number}")
        bench.provider.sources[source.path] = text_reading("x")
        await bench.cache.get(source, fetch=bench.provider.fetch, **CLOCKS)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    outlook = await bench.cache.outlook(("vault",))
    counting.cancel()
    assert outlook["vault"].usable == 1200
    assert turns >= 2
    await bench.cache.aclose()


async def test_what_was_asked_for_is_read_again_behind_before_it_is_no_longer_fresh(bench: Bench) -> None:
    await bench.value()
    bench.clock.advance(100)
    await bench.value()
    bench.says("two")
    bench.clock.advance(169)
    bench.cache.refresh_due()
    assert bench.reads == 1, "not before nine tenths of the fresh time"
    bench.clock.advance(31)
    bench.cache.refresh_due()
    await settle()
    assert bench.reads == 2
    assert await bench.value() == ("two", False)
    assert bench.counted("miss") == 1, "nobody waited for the second read"


async def test_what_nobody_asked_for_since_it_was_read_is_not_read_again_behind(bench: Bench) -> None:
    await bench.value()
    for _ in range(20):
        bench.clock.advance(100)
        bench.cache.refresh_due()
        await settle()
    assert bench.reads == 1


async def test_what_nobody_asked_for_lately_is_no_longer_read_again_behind(bench: Bench) -> None:
    await bench.value()
    bench.clock.advance(10)
    await bench.value()
    bench.says(SourceUnavailableError("away"))
    bench.clock.advance(290)
    bench.cache.refresh_due()
    await settle()
    assert bench.reads == 2
    for _ in range(20):
        bench.clock.advance(100)
        bench.cache.refresh_due()
        await settle()
    assert bench.reads == 2, "nobody asked within the last fresh time"


async def test_a_refresh_behind_that_fails_is_tried_again_with_pauses_and_the_value_stays(bench: Bench) -> None:
    await bench.value()
    bench.clock.advance(299)
    await bench.value()
    bench.says(SourceUnavailableError("away"))
    bench.clock.advance(1)
    reads = []
    for _ in range(12):
        bench.cache.refresh_due()
        await settle()
        reads.append(bench.reads)
        bench.clock.advance(2.5)
    assert 3 <= reads[-1] - 1 <= 6, "once in five to ten seconds"
    assert await bench.value() == ("one", True)
    bench.says("two")
    bench.clock.advance(10)
    bench.cache.refresh_due()
    await settle()
    assert await bench.value() == ("two", False)


async def test_what_nobody_may_use_any_more_leaves_memory_by_itself(bench: Bench) -> None:
    await bench.value(max_stale=600.0)
    bench.clock.advance(599)
    bench.cache.refresh_due()
    assert bench.metrics.registry.get_sample_value("broker_cache_entries") == 1
    bench.clock.advance(1)
    bench.cache.refresh_due()
    assert bench.metrics.registry.get_sample_value("broker_cache_entries") == 0


async def test_the_longest_second_clock_that_was_asked_with_keeps_it_in_memory(bench: Bench) -> None:
    await bench.value(max_stale=600.0)
    await bench.value(max_stale=3600.0)
    bench.clock.advance(3599)
    bench.cache.refresh_due()
    await settle()
    bench.says(SourceUnavailableError("away"))
    assert await bench.value(max_stale=3600.0) == ("one", True)


async def test_a_refusal_met_behind_drops_the_value_at_once(bench: Bench) -> None:
    await bench.value()
    bench.clock.advance(250)
    await bench.value()
    bench.says(UpstreamDeniedError("no"))
    bench.clock.advance(50)
    bench.cache.refresh_due()
    await settle()
    with pytest.raises(UpstreamDeniedError):
        await bench.value()


def owned(text: str, **facts: float) -> Reading:
    return replace(text_reading(text), facts=Facts(**facts))


async def test_its_owners_max_age_ends_both_clocks(bench: Bench) -> None:
    bench.provider.sources[KEY.path] = owned("one", max_age=60.0)
    cached = await bench.cache.get(KEY, fetch=bench.provider.fetch, **CLOCKS)
    assert (cached.fresh_until, cached.stale_until) == (START + 60, START + 60)
    bench.says(SourceUnavailableError("down"))
    bench.clock.advance(59)
    assert await bench.value() == ("one", False)
    bench.clock.advance(1)
    with pytest.raises(SourceUnavailableError):
        await bench.value()


async def test_what_has_a_max_age_is_read_again_behind_before_that_ends(bench: Bench) -> None:
    bench.cache._fetches._random = lambda: 0.5
    bench.provider.sources[KEY.path] = owned("one", max_age=60.0)
    await bench.value()
    await bench.value()
    bench.says("two")
    bench.clock.advance(59)
    bench.cache.refresh_due()
    await settle()
    assert bench.reads == 2
    assert await bench.value() == ("two", False)


async def test_a_max_age_never_loosens_what_policy_says(bench: Bench) -> None:
    bench.provider.sources[KEY.path] = owned("one", max_age=99_999.0)
    cached = await bench.cache.get(KEY, fetch=bench.provider.fetch, **CLOCKS)
    assert (cached.fresh_until, cached.stale_until) == (START + 300, START + 3600)


async def test_a_max_age_of_zero_is_a_second(bench: Bench) -> None:
    bench.provider.sources[KEY.path] = owned("one", max_age=0.0)
    await bench.value()
    bench.clock.advance(0.5)
    await bench.value()
    assert bench.reads == 1


async def test_what_should_have_been_rotated_is_counted(bench: Bench) -> None:
    bench.provider.sources[KEY.path] = replace(owned("one", rotation_age=100.0), created_at=START - 99)
    bench.provider.sources[OTHER.path] = replace(text_reading("other"), created_at=START - 99_999)
    await bench.value()
    await bench.value(OTHER)
    assert (await bench.cache.outlook(["vault"]))["vault"].overdue == 0
    bench.clock.advance(2)
    assert (await bench.cache.outlook(["vault"]))["vault"].overdue == 1
