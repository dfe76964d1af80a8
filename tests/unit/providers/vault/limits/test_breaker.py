"""The breaker of a store: when it opens, what it lets through meanwhile, and when it closes."""

import pytest

from broker.providers.vault.exchange.request import Place
from broker.providers.vault.limits.breaker import Breaker, BreakerOpenError, PlaceBreakers
from tests.fakes import FakeClock

REASON = "the store is sealed"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    return Breaker(probe_seconds=5, clock=clock)


def open_it(breaker: Breaker) -> None:
    breaker.failed(breaker.admit(), reason=REASON, at_once=True)


def refused(breaker: Breaker) -> BreakerOpenError:
    with pytest.raises(BreakerOpenError) as caught:
        breaker.admit()
    return caught.value


def test_three_failures_in_a_row_open_it(breaker: Breaker) -> None:
    for _ in range(2):
        breaker.failed(breaker.admit(), reason="lost")
    breaker.passed(breaker.admit())
    for _ in range(2):
        breaker.failed(breaker.admit(), reason="lost")
    assert not breaker.is_open
    breaker.failed(breaker.admit(), reason="lost")
    assert breaker.is_open


def test_a_store_that_says_that_it_is_sealed_opens_it_at_once(breaker: Breaker) -> None:
    open_it(breaker)
    assert breaker.is_open


def test_while_open_a_request_fails_at_once_with_the_reason_and_the_time_to_the_next_probe(
    breaker: Breaker, clock: FakeClock
) -> None:
    open_it(breaker)
    clock.advance(2)
    error = refused(breaker)
    assert error.detail == REASON
    assert error.retry_after == pytest.approx(3)


def test_one_probe_in_its_time_however_many_ask(breaker: Breaker, clock: FakeClock) -> None:
    open_it(breaker)
    probes = 0
    for _ in range(600):
        clock.advance(0.1)
        for _ in range(5):
            try:
                permit = breaker.admit()
            except BreakerOpenError:
                continue
            probes += 1
            breaker.failed(permit, reason="lost")
    assert 11 <= probes <= 12


def test_a_probe_that_hangs_is_the_only_one(breaker: Breaker, clock: FakeClock) -> None:
    open_it(breaker)
    clock.advance(5)
    permit = breaker.admit()
    clock.advance(60)
    refused(breaker)
    breaker.failed(permit, reason="the store does not answer in time")
    assert refused(breaker).detail == "the store does not answer in time"


def test_a_probe_that_is_answered_closes_it_and_one_that_was_cancelled_frees_its_place(
    breaker: Breaker, clock: FakeClock
) -> None:
    open_it(breaker)
    clock.advance(5)
    breaker.undecided(breaker.admit())
    clock.advance(5)
    breaker.passed(breaker.admit())
    assert not breaker.is_open
    breaker.admit()


def test_what_was_sent_before_the_store_came_back_does_not_open_it_again(breaker: Breaker, clock: FakeClock) -> None:
    late = [breaker.admit() for _ in range(5)]
    open_it(breaker)
    clock.advance(5)
    breaker.passed(breaker.admit())
    for permit in late:
        breaker.failed(permit, reason="lost", at_once=True)
    assert not breaker.is_open


def test_what_was_sent_before_the_outage_does_not_close_it(breaker: Breaker) -> None:
    late = breaker.admit()
    open_it(breaker)
    breaker.passed(late)
    assert breaker.is_open


@pytest.mark.parametrize(("asked", "waited"), [(30.0, 30.0), (1.0, 5.0)])
def test_a_pause_that_the_store_asks_for_is_kept_and_none_is_shorter_than_that_between_probes(
    breaker: Breaker, clock: FakeClock, asked: float, waited: float
) -> None:
    breaker.failed(breaker.admit(), reason=REASON, at_once=True, retry_after=asked)
    clock.advance(waited - 0.1)
    refused(breaker)
    clock.advance(0.1)
    breaker.admit()


HERE, THERE = Place("", "team1/kv"), Place("", "team2/kv")


@pytest.fixture
def places(clock: FakeClock) -> PlaceBreakers:
    return PlaceBreakers(probe_seconds=5, clock=clock)


def test_a_place_that_is_shut_shuts_no_other(places: PlaceBreakers) -> None:
    places.shut(HERE, places.admit(HERE), reason="the namespace is sealed")
    with pytest.raises(BreakerOpenError, match="the namespace is sealed"):
        places.admit(HERE)
    places.admit(THERE)
    assert places.open == 1


def test_a_shut_place_is_probed_and_opens_with_the_first_answer(places: PlaceBreakers, clock: FakeClock) -> None:
    places.shut(HERE, places.admit(HERE), reason="sealed")
    clock.advance(5)
    probe = places.admit(HERE)
    with pytest.raises(BreakerOpenError):
        places.admit(HERE)
    places.passed(HERE, probe)
    places.admit(HERE)
    assert places.open == 0


def test_what_was_sent_before_a_place_was_shut_says_nothing_about_the_time_after_it(
    places: PlaceBreakers, clock: FakeClock
) -> None:
    late = [places.admit(HERE) for _ in range(3)]
    places.shut(HERE, late[0], reason="sealed")
    clock.advance(5)
    probe = places.admit(HERE)
    places.passed(HERE, late[1])
    assert places.open == 1
    places.passed(HERE, probe)
    places.shut(HERE, late[2], reason="sealed")
    assert places.open == 0


def test_a_probe_of_a_place_that_came_to_nothing_frees_its_turn(places: PlaceBreakers, clock: FakeClock) -> None:
    places.shut(HERE, places.admit(HERE), reason="sealed")
    clock.advance(5)
    places.undecided(HERE, places.admit(HERE))
    clock.advance(5)
    places.admit(HERE)


def test_looking_whether_a_probe_is_due_uses_none_up(places: PlaceBreakers, clock: FakeClock) -> None:
    places.check(HERE)
    places.shut(HERE, places.admit(HERE), reason="sealed")
    with pytest.raises(BreakerOpenError, match="sealed"):
        places.check(HERE)
    clock.advance(5)
    for _ in range(3):
        places.check(HERE)
    assert places.admit(HERE) is not None
    with pytest.raises(BreakerOpenError):
        places.check(HERE)
