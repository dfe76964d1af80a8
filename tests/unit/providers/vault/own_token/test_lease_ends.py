"""Leases that end with the broker's own token."""

from collections.abc import Callable

from broker.providers.vault.own_token.lease_ends import LeaseEnds, TokenInUse
from tests.fakes import FakeClock


def lasting(end: Callable[[], float]) -> TokenInUse:
    return TokenInUse(end=end, is_replaced=lambda: False)


def test_a_lease_lives_no_longer_than_the_token_that_it_was_minted_under() -> None:
    clock = FakeClock()
    ends, end = LeaseEnds(clock=clock), clock.monotonic() + 100
    assert ends.begin("lease", lasting(lambda: end), seconds=60) == 60
    assert ends.begin("long", lasting(lambda: end), seconds=3600) == 100
    clock.advance(50)
    assert ends.extend("lease", seconds=60) == 50
    clock.advance(60)
    assert ends.extend("lease", seconds=60) == 0


def test_a_renewed_token_lets_its_leases_live_on() -> None:
    clock = FakeClock()
    token_ends = [clock.monotonic() + 100]
    ends = LeaseEnds(clock=clock)
    ends.begin("lease", lasting(lambda: token_ends[0]), seconds=60)
    clock.advance(90)
    token_ends[0] += 100
    assert ends.extend("lease", seconds=60) == 60


def test_what_has_a_parent_of_its_own_is_not_cut() -> None:
    assert LeaseEnds(clock=FakeClock()).extend("other", seconds=60) == 60


def test_leases_that_end_without_a_word_do_not_pile_up() -> None:
    clock = FakeClock()
    ends = LeaseEnds(clock=clock)
    ends.begin("long", lasting(lambda: float("inf")), seconds=1e9)
    for number in range(20_000):
        ends.begin(f"lease {number}", lasting(lambda: float("inf")), seconds=10)
        clock.advance(1)
    assert len(ends) < 2500
    clock.advance(1e6)
    assert ends.extend("long", seconds=60) == 60


def test_the_life_of_a_lease_is_its_last_once_its_token_was_replaced_by_another() -> None:
    replaced = [False]
    ends = LeaseEnds(clock=FakeClock())
    ends.begin("lease", TokenInUse(end=lambda: float("inf"), is_replaced=lambda: replaced[0]), seconds=60)
    assert not ends.is_last("lease")
    replaced[0] = True
    assert ends.is_last("lease")
    assert not ends.is_last("one with a parent of its own")
