"""Memory is bounded: what is let go is gone, whatever was still to happen to it."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from broker.cache.memory import Memory
from broker.cache.remembered import Clocks, Entry
from broker.reference import Source, parse
from broker.secret import Reading, SecretDocument
from tests.fakes import fake_metrics
from tests.vaults import Seen


def source(number: int) -> Source:
    return parse(f"vault:secret/n{number}#v").source


def entry(clock: Seen) -> Entry:
    async def never(_source: Source) -> Reading:
        raise AssertionError("nothing is read here")

    reading = Reading(document=SecretDocument.of_fields({"v": "x"}, size=1), version="1")
    clocks = Clocks.of(300.0, 3600.0)
    born = clock.monotonic()
    return Entry(
        reading=reading,
        fetch=never,
        fetched_at=clock.now(),
        born=born,
        dies=float("inf"),
        clocks=clocks,
        early=0.9,
        lasts_until=born + 3600,
    )


@pytest.fixture
def clock() -> Iterator[Seen]:
    return Seen()


def test_an_entry_that_is_let_go_is_not_kept_alive_by_what_was_due(clock: Seen) -> None:
    memory = Memory(clock=clock, metrics=fake_metrics(), max_entries=10, max_bytes=1000)
    held = entry(clock)
    # A function can be referred to weakly, and an entry can't; this one is of that entry alone.
    part_of_it = weakref.ref(held.fetch)
    memory.keep(source(1), held)
    del held
    assert part_of_it() is not None
    memory.forget(source(1))
    gc.collect()
    assert part_of_it() is None


def test_what_is_due_stays_bounded_by_what_is_held(clock: Seen) -> None:
    memory = Memory(clock=clock, metrics=fake_metrics(), max_entries=10, max_bytes=1000)
    for number in range(20_000):
        memory.keep(source(number), entry(clock))
    assert len(memory) == 10
    assert len(memory._moments) <= 1100


def test_each_entry_is_due_once_and_only_while_it_is_held(clock: Seen) -> None:
    memory = Memory(clock=clock, metrics=fake_metrics(), max_entries=10, max_bytes=1000)
    first, second = entry(clock), entry(clock)
    memory.keep(source(1), entry(clock))
    memory.keep(source(1), first)
    memory.keep(source(2), second)
    memory.keep(source(3), entry(clock))
    memory.forget(source(3))
    clock.advance(301)
    assert list(memory.due()) == [(source(1), first), (source(2), second)]
    assert list(memory.due()) == []
