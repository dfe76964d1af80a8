"""Durations as people write them: a whole number and its unit. Pure."""

import re
from typing import Final

MAX_SECONDS: Final = 365 * 86_400
_DURATION: Final = re.compile(r"0|([1-9][0-9]{0,8})([smhd])", re.ASCII)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration(text: str) -> float:
    """Return the seconds of "30s", "5m", "1h", "1d" or "0".

    Raises:
        ValueError: It spells no duration, or more than 365 days.

    """
    match = _DURATION.fullmatch(text)
    if match is None:
        message = "no duration; write a whole number with its unit, such as 30s, 5m, 1h, 1d, or 0"
        raise ValueError(message)
    seconds = 0 if match[1] is None else int(match[1]) * _UNITS[match[2]]
    if seconds > MAX_SECONDS:
        message = "longer than 365d; shorten it"
        raise ValueError(message)
    return float(seconds)
