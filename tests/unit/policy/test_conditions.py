"""The conditions of rules, one by one."""

import math
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from broker.policy.conditions import Conditions, parse_day, parse_hours, parse_network
from broker.policy.decision import Context


def at(moment: str) -> float:
    return datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()


def context(*, address: str = "127.0.0.1", now: float = 0.0, token: bool = False) -> Context:
    return Context(address=ip_address(address), now=now, scope=() if token else None)


@pytest.mark.parametrize(
    ("network", "address", "expected"),
    [
        ("10.0.0.0/8", "10.255.255.255", True),
        ("10.0.0.0/8", "11.0.0.0", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "fd00::1", False),
        ("fd00::/8", "fd00::1", True),
        ("::/0", "10.0.0.1", False),
        ("0.0.0.0/0", "fd00::1", False),
        ("192.0.2.7", "192.0.2.7", True),
    ],
)
def test_networks_hold_for_addresses_within_them(network: str, address: str, expected: bool) -> None:
    conditions = Conditions(networks=(parse_network(network),))
    assert conditions.hold(context(address=address), environment=None) is expected


@pytest.mark.parametrize(
    "text", ["10.0.0.1/8", "10.0.0.0/33", "office", "", "::ffff:10.0.0.0/104", "10.0.0.0/255.0.0.0/8"]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_network(text)


@pytest.mark.parametrize(
    ("hours", "time", "expected"),
    [
        ("08:00-18:00", "07:59", False),
        ("08:00-18:00", "08:00", True),
        ("08:00-18:00", "17:59", True),
        ("08:00-18:00", "18:00", False),
        ("22:00-06:00", "23:30", True),
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "06:00", False),
        ("00:00-24:00", "23:59", True),
    ],
)
def test_hours_hold_from_their_first_minute_to_before_their_last(hours: str, time: str, expected: bool) -> None:
    conditions = Conditions(hours=parse_hours(hours))
    assert conditions.hold(context(now=at(f"2026-01-05T{time}:00")), environment=None) is expected


@pytest.mark.parametrize(
    "text", ["8-18", "08:00", "24:00-08:00", "08:60-09:00", "08:00-24:01", "08:00-08:00", "٠٨:00-09:00"]
)
def test_what_is_no_span_of_hours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hours"):
        parse_hours(text)


def test_days_hold_on_those_days_in_utc() -> None:
    conditions = Conditions(days=(parse_day("mon"), parse_day("sun")))
    answers = [conditions.hold(context(now=at(f"2026-01-0{day}T12:00:00")), environment=None) for day in (4, 5, 6)]
    assert answers == [True, True, False]


def test_what_is_no_day_is_refused() -> None:
    with pytest.raises(ValueError, match="mon, tue"):
        parse_day("monday")


def test_token_holds_when_one_was_presented_even_with_an_empty_scope() -> None:
    conditions = Conditions(token=True)
    assert conditions.hold(context(token=True), environment=None) is True
    assert conditions.hold(context(), environment=None) is False


def test_environment_holds_for_identities_that_belong_to_it() -> None:
    conditions = Conditions(environments=("production",))
    assert conditions.hold(context(), environment="production") is True
    assert conditions.hold(context(), environment="staging") is False


def test_environment_can_not_be_evaluated_for_an_identity_without_one() -> None:
    assert Conditions(environments=("production",)).hold(context(), environment=None) is None


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_hours_and_days_can_not_be_evaluated_without_a_time(now: float) -> None:
    for conditions in (Conditions(hours=(0, 60)), Conditions(days=(0,))):
        assert conditions.hold(context(now=now), environment=None) is None


def test_all_conditions_must_hold() -> None:
    conditions = Conditions(networks=(parse_network("10.0.0.0/8"),), token=True)
    assert conditions.hold(context(address="10.0.0.1", token=True), environment=None) is True
    assert conditions.hold(context(address="10.0.0.1"), environment=None) is False
    assert conditions.hold(context(token=True), environment=None) is False


def test_one_condition_that_fails_decides_whatever_can_not_be_evaluated() -> None:
    conditions = Conditions(hours=(0, 60), token=True)
    assert conditions.hold(context(now=math.nan), environment=None) is False
    assert conditions.hold(context(now=math.nan, token=True), environment=None) is None


def test_no_conditions_always_hold() -> None:
    assert Conditions().hold(context(now=math.nan), environment=None) is True
