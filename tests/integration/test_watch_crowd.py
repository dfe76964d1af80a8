"""Fifty agents watch over fifty streams: what that costs a real store, by its audit log, and the broker's memory."""

from typing import Final

import pytest

from benchmarks.watchers import Crowd, Seen, watch

CROWD: Final = Crowd(watchers=50, secrets=20, folders=2, changed=3, interval=0.3)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return watch(tmp_path_factory.mktemp("crowd"), CROWD)


def test_each_folder_is_listed_once_a_look_however_many_watch(seen: Seen) -> None:
    assert len(seen.listings) == CROWD.folders
    # The pause between two looks is shorter than the interval by a tenth at most.
    assert max(seen.listings.values()) <= seen.intervals / 0.9 + 1
    assert seen.others == {}, "no value is read, and nothing is asked for each watcher"


def test_each_watcher_is_told_of_each_change_once(seen: Seen) -> None:
    assert seen.told == {(CROWD.changed, 1): CROWD.watchers}


def test_a_stream_takes_no_more_memory_than_it_needs(seen: Seen) -> None:
    assert seen.bytes_each < 250_000
