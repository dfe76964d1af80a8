"""The comparison of the broker's wall clock with the store's."""

import logging

import pytest

from broker.providers.vault.health.clocks import ClockComparison
from tests.fakes import START, FakeClock
from tests.vaults import Seen


def comparison() -> tuple[ClockComparison, FakeClock, Seen]:
    clock, seen = FakeClock(), Seen()
    return ClockComparison(clock=clock, observer=seen), clock, seen


def test_the_difference_is_taken_at_the_middle_of_the_request() -> None:
    clocks, clock, seen = comparison()
    began = clocks.begin()
    clock.advance(1.0)
    clocks.compare(began, {"server_time_utc": int(START) + 60})
    assert seen.skews == [-60.0]


@pytest.mark.parametrize("health", [None, [], {}, {"server_time_utc": "12"}, {"server_time_utc": True}])
def test_a_store_that_tells_no_time_is_no_difference(health: object) -> None:
    clocks, _, seen = comparison()
    clocks.compare(clocks.begin(), health)
    assert seen.skews == []


def test_a_slow_answer_tells_too_little() -> None:
    clocks, clock, seen = comparison()
    began = clocks.begin()
    clock.advance(2.5)
    clocks.compare(began, {"server_time_utc": int(START)})
    assert seen.skews == []


def test_more_than_five_seconds_are_logged_once_until_they_are_gone(caplog: pytest.LogCaptureFixture) -> None:
    clocks, _, _ = comparison()
    with caplog.at_level(logging.WARNING):
        for theirs in (0, 6, 7, 0, -6):
            clocks.compare(clocks.begin(), {"server_time_utc": int(START) + theirs})
    assert [record.getMessage().partition(" detail=")[0] for record in caplog.records] == [
        "clock_skew seconds=-6",
        "clock_skew seconds=6",
    ]
