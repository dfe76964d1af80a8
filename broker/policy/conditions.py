"""The conditions of a rule: what must hold besides who asks and for what."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from broker.peer_address import Address, unmapped
from broker.policy.decision import Context

Network = IPv4Network | IPv6Network
Hours = tuple[int, int]

ALL_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS: Final = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})", re.ASCII)
_DAY_MINUTES: Final = 24 * 60
_HOUR_MINUTES: Final = 60
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What must hold; None stands for a condition that is not set. All that are set must hold.

    Attributes:
        networks: The connection comes from one of them.
        hours: First minute of the day and the minute after the last, UTC; over midnight if the first is larger.
        days: The day of the week now, UTC, Monday being 0.
        token: A token was presented.
        environments: The environment of the identity is one of them.
        younger_than: Seconds since the secret was written, at most. No part of `hold`: it is asked of what was read,
            when everything else holds, so that nobody learns from it what policy does not give at all.

    """

    networks: tuple[Network, ...] | None = None
    hours: Hours | None = None
    days: tuple[int, ...] | None = None
    token: bool = False
    environments: tuple[str, ...] | None = None
    younger_than: float | None = None

    def hold(self, context: Context, *, environment: str | None) -> bool | None:
        """Tell whether all conditions hold; None when that depends on one which can't be evaluated."""
        answers = self.answers(context, environment=environment).values()
        if False in answers:
            return False
        return None if None in answers else True

    def answers(self, context: Context, *, environment: str | None) -> Mapping[str, bool | None]:
        """Return for each condition that is set whether it holds, None when it can't be evaluated."""
        answers: dict[str, bool | None] = {}
        if self.networks is not None:
            answers["networks"] = _within(context.address, self.networks)
        if self.hours is not None or self.days is not None:
            moment = _moment(context.now)
            if self.hours is not None:
                answers["hours"] = None if moment is None else _during(moment, self.hours)
            if self.days is not None:
                answers["days"] = None if moment is None else moment.weekday() in self.days
        if self.token:
            answers["token"] = context.scope is not None
        if self.environments is not None:
            answers["environment"] = None if environment is None else environment in self.environments
        return answers


UNCONDITIONAL: Final = Conditions()


def parse_network(text: str) -> Network:
    """Return the network that `text` spells.

    Raises:
        ValueError: It spells none, or has bits set behind its prefix.

    """
    try:
        network = ip_network(text)
    except ValueError:
        message = 'no network; write an address and a prefix without further bits, such as "10.0.0.0/8" or "fd00::/8"'
        raise ValueError(message) from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        message = "IPv4 addresses written as IPv6; write the IPv4 network, it meets both spellings"
        raise ValueError(message)
    return network


def parse_hours(text: str) -> Hours:
    """Return the first minute and the minute after the last of "08:00-18:00".

    Raises:
        ValueError: It spells no span of hours.

    """
    message = 'no hours; write them in UTC with two digits each, such as "08:00-18:00" or "22:00-06:00"'
    match = _HOURS.fullmatch(text)
    if match is None:
        raise ValueError(message)
    from_hour, from_minute, to_hour, to_minute = (int(part) for part in match.groups())
    start, end = from_hour * _HOUR_MINUTES + from_minute, to_hour * _HOUR_MINUTES + to_minute
    if max(from_minute, to_minute) >= _HOUR_MINUTES or start >= _DAY_MINUTES or end > _DAY_MINUTES:
        raise ValueError(message)
    if start == end:
        message = "hours that end where they begin; leave hours out for the whole day"
        raise ValueError(message)
    return start, end


def parse_day(text: str) -> int:
    """Return the number of a day of the week, Monday being 0.

    Raises:
        ValueError: It is none.

    """
    if text not in ALL_DAYS:
        message = f"no day; write one of {', '.join(ALL_DAYS)}"
        raise ValueError(message)
    return ALL_DAYS.index(text)


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    # The rule means the peer, not the spelling.
    peer = unmapped(address)
    return any(peer in network for network in networks)


def _moment(now: float) -> datetime | None:
    if not math.isfinite(now):
        return None
    try:
        return datetime.fromtimestamp(now, tz=UTC)
    except (OverflowError, OSError, ValueError):
        return None


def _during(moment: datetime, hours: Hours) -> bool:
    minute = moment.hour * _HOUR_MINUTES + moment.minute
    start, end = hours
    return start <= minute < end if start < end else minute >= start or minute < end
