"""How long a store asks to wait: `Retry-After` in both of its forms (RFC 9110 §10.2.3)."""

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

_LONGEST_SECONDS: Final = 60.0


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the seconds to wait, a minute at most; None when `headers` name no time that can be read.

    A date counts from the store's own `Date`, which is right however its clock stands against ours; without one it
    counts from `now`, in wall seconds. A date in the past asks for no wait.
    """
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isdecimal() and text.isascii():
        return min(float(text), _LONGEST_SECONDS)
    moment = _moment(text)
    if moment is None:
        return None
    sent = _moment(headers.get("Date", ""))
    return min(max(moment - (now if sent is None else sent), 0.0), _LONGEST_SECONDS)


def _moment(text: str) -> float | None:
    """Return the wall seconds of an HTTP date, None when it is none."""
    try:
        moment = parsedate_to_datetime(text)
        # The form of C's asctime names no zone, and means this one.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
