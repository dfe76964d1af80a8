"""A bucket for each identity."""

import pytest

from broker.errors import ThrottledError
from broker.limits.throttle import Throttle
from tests.fakes import FakeClock


def refused(throttle: Throttle, identity: str) -> ThrottledError:
    with pytest.raises(ThrottledError) as caught:
        throttle.take(identity)
    return caught.value


def test_a_burst_passes_and_then_the_rate_holds_for_this_identity_alone() -> None:
    clock = FakeClock()
    throttle = Throttle(clock=clock, per_second=10, burst=50)
    for _ in range(50):
        throttle.take("loop")
    assert refused(throttle, "loop").retry_after == pytest.approx(0.1)
    throttle.take("calm")
    clock.advance(0.1)
    throttle.take("loop")
    refused(throttle, "loop")


def test_refusals_belong_on_record_once_a_minute() -> None:
    clock = FakeClock()
    throttle = Throttle(clock=clock, per_second=0.001, burst=1)
    throttle.take("loop")
    news = []
    for _ in range(180):
        news.append(refused(throttle, "loop").is_news)
        clock.advance(1)
    assert news.count(True) == 3


def test_nothing_a_second_switches_it_off() -> None:
    throttle = Throttle(clock=FakeClock(), per_second=0, burst=1)
    for _ in range(10_000):
        throttle.take("loop")


def test_identities_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.limits.throttle._MAX_IDENTITIES", 10)
    throttle = Throttle(clock=FakeClock(), per_second=1, burst=1)
    for number in range(100):
        throttle.take(str(number))
    assert len(throttle._askers) == 10
