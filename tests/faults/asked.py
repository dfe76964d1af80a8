"""Requests that somebody counted, and how many of them came at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, at a steady time."""

    at: float
    method: str
    path: str


def count(asked: Sequence[Asked], part: str) -> int:
    """Return how many requests have `part` in their path."""
    return sum(1 for one in asked if part in one.path)


def between(asked: Sequence[Asked], since: float, until: float = math.inf) -> list[Asked]:
    """Return the requests of this time."""
    return [one for one in asked if since <= one.at <= until]


def peak(asked: Sequence[Asked], seconds: float = 1.0) -> int:
    """Return the most requests within any window of `seconds`."""
    times = sorted(one.at for one in asked)
    most = first = 0
    for last, moment in enumerate(times):
        while moment - times[first] > seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
