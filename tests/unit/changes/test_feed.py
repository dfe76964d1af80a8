"""Who watches is told of each change once, whatever it missed meanwhile."""

import asyncio
from collections.abc import Callable

import pytest

from broker.changes.subscription import Subscription
from broker.errors import MissingPart, SecretMissingError, SourceMintsError, SourceUnavailableError
from broker.reference import Source
from tests.changing import ChangingStore

APP, DB = Source("vault", "secret/app"), Source("vault", "secret/db")
FILE = Source("file", "/run/key")


@pytest.fixture
def store() -> ChangingStore:
    return ChangingStore()


def told(subscription: Subscription) -> list[tuple[Source, str | None, bool]]:
    return [(change.source, change.version, change.gone) for change in subscription.take()]


async def test_a_change_is_told_to_those_who_watch_it_after_the_remembered_value_was_outdated(
    store: ChangingStore,
) -> None:
    store.set(APP, 1), store.set(DB, 1)
    both, one = store.watch(APP, DB), store.watch(DB)
    await store.feed.compare()
    assert told(both) == told(one) == []
    store.set(APP, 2)
    await store.feed.compare()
    assert told(both) == [(APP, "2", False)]
    assert told(one) == []
    assert store.renewed == [APP]
    await store.feed.compare()
    assert told(both) == []


async def test_a_secret_that_goes_and_comes_back_is_told_twice(store: ChangingStore) -> None:
    store.set(APP, 1)
    watch = store.watch(APP)
    await store.feed.compare()
    store.set(APP, None)
    await store.feed.compare()
    assert told(watch) == [(APP, None, True)]
    store.set(APP, 1)
    await store.feed.compare()
    assert told(watch) == [(APP, "1", False)]


async def test_a_thousand_watchers_cost_one_look(store: ChangingStore) -> None:
    store.set(APP, 1)
    watches = [store.watch(APP) for _ in range(1000)]
    await store.feed.compare()
    assert store.looks == 1
    store.set(APP, 2)
    await store.feed.compare()
    assert store.looks == 2
    assert all(told(watch) == [(APP, "2", False)] for watch in watches)


async def test_who_comes_back_gets_what_it_missed_and_only_that(store: ChangingStore) -> None:
    store.set(APP, 1), store.set(DB, 1)
    first = store.watch(APP, DB)
    await store.feed.compare()
    store.set(APP, 2)
    await store.feed.compare()
    position = store.feed.position
    stays = store.watch(DB)
    store.feed.unsubscribe(first)
    store.set(DB, 2)
    await store.feed.compare()
    again = store.watch(APP, DB, after=position)
    assert store.resumed
    assert told(again) == [(DB, "2", False)]
    assert told(stays) == [(DB, "2", False)]


@pytest.mark.parametrize("after", ["", "other-1", "-", "x", "{epoch}-99", "{epoch}-²", "{epoch}-" + "9" * 5000])
async def test_an_id_that_says_nothing_is_told_so(store: ChangingStore, after: str) -> None:
    epoch = store.feed.position.partition("-")[0]
    store.watch(APP)
    store.watch(APP, after=after.format(epoch=epoch))
    assert not store.resumed


async def test_an_id_from_before_the_journal_is_told_so(store: ChangingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.changes.journal._CHANGES", 3)
    store = ChangingStore()
    store.set(APP, 0)
    store.watch(APP)
    await store.feed.compare()
    epoch = store.feed.position.partition("-")[0]
    for version in range(1, 6):
        store.set(APP, version)
        await store.feed.compare()
    store.watch(APP, after=f"{epoch}-1")
    assert not store.resumed
    store.watch(APP, after=f"{epoch}-2")
    assert store.resumed


async def test_a_change_between_reading_and_watching_is_told_at_the_first_look(store: ChangingStore) -> None:
    store.set(APP, 2)
    late = store.watch(APP, known={APP: "1"})
    await store.feed.compare()
    assert told(late) == [(APP, "2", False)]
    right = store.watch(APP, known={APP: "2"})
    later = store.watch(APP, known={APP: "1"})
    await store.feed.compare()
    assert told(right) == []
    assert told(later) == [(APP, "2", False)]
    await store.feed.compare()
    assert told(later) == []


async def test_what_a_watcher_has_is_no_longer_remembered_when_it_is_told_that_it_is_old(store: ChangingStore) -> None:
    store.set(APP, 2), store.set(DB, 1)
    first = store.watch(APP, DB, known={APP: "1", DB: "1"})
    await store.feed.compare()
    assert told(first) == [(APP, "2", False)]
    assert store.renewed == [APP]
    store.watch(APP, known={APP: "1"})
    await store.feed.compare()
    assert store.renewed == [APP, APP]


async def test_who_comes_while_a_change_is_being_taken_in_is_told_of_it_once(
    store: ChangingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set(APP, 1)
    store.watch(APP)
    await store.feed.compare()
    late: list[Subscription] = []

    async def renew(_concerns: Callable[[Source], bool] | None) -> int:
        late.append(store.watch(APP, known={APP: "1"}))
        return 1

    monkeypatch.setattr(store, "renew", renew)
    store.set(APP, 2)
    await store.feed.compare()
    assert told(late[0]) == [(APP, "2", False)]
    await store.feed.compare()
    assert told(late[0]) == []


async def test_the_first_looks_of_a_fleet_leave_others_their_turn(store: ChangingStore) -> None:
    store.set(APP, 1)
    for _ in range(100):
        store.watch(APP, known={APP: "1"})
    looking = asyncio.create_task(store.feed.compare())
    turns = 0
    while not looking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 2 * 100, "where they are compared, and where they are told"


async def test_a_slow_watcher_is_told_of_the_last_change_alone(store: ChangingStore) -> None:
    store.set(APP, 1)
    watch = store.watch(APP)
    await store.feed.compare()
    for version in range(2, 50):
        store.set(APP, version)
        await store.feed.compare()
    assert told(watch) == [(APP, "49", False)]


async def test_a_store_that_is_away_changes_nothing(store: ChangingStore) -> None:
    store.set(APP, 1)
    watch = store.watch(APP)
    await store.feed.compare()
    store.down = True
    await store.feed.compare()
    store.down = False
    await store.feed.compare()
    assert told(watch) == []


async def test_what_can_not_be_compared_is_read(store: ChangingStore) -> None:
    store.values = {FILE: "one", DB: "one"}
    watch = store.watch(FILE, DB)
    await store.feed.compare()
    store.values[DB] = "two"
    await store.feed.compare()
    assert told(watch) == [(DB, None, False)]
    store.values = {FILE: SecretMissingError("gone", part=MissingPart.PATH), DB: SourceUnavailableError("away")}
    await store.feed.compare()
    assert told(watch) == [(FILE, None, True)]


async def test_one_that_is_away_for_a_while_and_was_the_only_one_misses_nothing(store: ChangingStore) -> None:
    store.set(APP, 1)
    only = store.watch(APP)
    await store.feed.compare()
    position = store.feed.position
    store.feed.unsubscribe(only)
    store.set(APP, 2)
    await store.feed.compare()
    again = store.watch(APP, after=position)
    assert store.resumed
    assert told(again) == [(APP, "2", False)]


async def test_what_nobody_watches_any_more_costs_nothing_after_a_while_and_is_no_longer_resumed(
    store: ChangingStore,
) -> None:
    store.set(APP, 1)
    only = store.watch(APP)
    await store.feed.compare()
    position = store.feed.position
    store.feed.unsubscribe(only)
    for _ in range(50):
        await store.feed.compare()
    assert store.looks == 11
    store.watch(APP, after=position)
    assert not store.resumed


async def test_who_comes_and_goes_with_ever_new_names_leaves_few_of_them_behind(
    store: ChangingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.changes.feed._MAX_LINGERING", 2)
    store.set(APP, 1)
    stays = store.watch(APP)
    new = [Source("vault", f"secret/new/{number}") for number in range(20)]
    for source in new:
        store.set(source, 1)
        store.feed.unsubscribe(store.watch(APP, source))
    assert set(store.feed._since) == {APP, *new[-2:]}
    await store.feed.compare()
    store.set(APP, 2)
    await store.feed.compare()
    assert told(stays) == [(APP, "2", False)]


@pytest.mark.parametrize(
    ("had", "leases", "versions"),
    [
        ("lease_a", ["lease_a", "lease_a"], []),
        ("lease_a", ["lease_b"], ["lease_b"]),
        # It has ended, or a restart of the broker has let go of it, and then another is made.
        ("lease_a", [None, None, "lease_b", "lease_b"], [None]),
        # It should be replaced, and nothing can take its place for a while.
        ("lease_a", ["lease_a", "", "", "lease_b"], [None, None, "lease_b"]),
        # Whoever has none is told of nothing, and of the end of one that it gets later.
        (None, [None, None, "lease_a", None], [None]),
    ],
)
async def test_a_watcher_is_told_when_its_own_lease_ends_or_should_be_replaced(
    store: ChangingStore, had: str | None, leases: list[str | None], versions: list[str | None]
) -> None:
    store.values[APP] = SourceMintsError("made for its asker")
    it = store.watch(APP, known={} if had is None else {APP: had})
    found = []
    for lease in leases:
        store.leases.clear()
        if lease is not None:
            store.leases[APP] = lease
        await store.feed.compare()
        found += told(it)
    assert found == [(APP, version, False) for version in versions]
    assert store.renewed == []


async def test_who_comes_back_to_a_lease_is_not_told_that_nothing_is_missing(store: ChangingStore) -> None:
    store.values[APP] = SourceMintsError("made for its asker")
    it = store.watch(APP)
    await store.feed.compare()
    store.feed.unsubscribe(it)
    store.watch(APP, after=store.feed.position)
    assert not store.resumed


async def test_the_end_of_the_feed_is_told_to_those_who_watch_and_to_those_who_come(store: ChangingStore) -> None:
    watch = store.watch(APP)
    await store.feed.aclose()
    async with asyncio.timeout(1):
        await watch.wait()
    assert (watch.ended, store.watch(APP).ended) == ("shutdown", "shutdown")
