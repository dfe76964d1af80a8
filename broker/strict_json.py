"""JSON without surprises: UTF-8, each member once, numbers that are some, and a bounded depth. Pure.

What two readers could take for two things is refused, and what a caller wrote is in no error's text.
"""

import json
import re
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 16
# Strings are skipped whole, also one that never ends, so the scan is linear whatever the text is.
_STRUCTURE: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


class JsonInvalidError(ValueError):
    """A text is no JSON that is taken here; `detail` says why, in fixed words."""

    def __init__(self, detail: str) -> None:
        """Keep why."""
        super().__init__(detail)
        self.detail = detail


def read(raw: bytes, *, what: str) -> object:
    """Return what `raw` says; `what` names it in errors, such as "the body".

    Raises:
        JsonInvalidError: It is not UTF-8, no JSON, nested deeper than 16 levels, names a member twice, or holds a
            number that is none or too large.

    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        message = f"{what} is not UTF-8"
        raise JsonInvalidError(message) from None
    if text.startswith("\ufeff"):
        message = f"{what} begins with a byte order mark"
        raise JsonInvalidError(message)
    if _is_too_deep(text):
        message = f"{what} is nested deeper than {MAX_DEPTH} levels"
        raise JsonInvalidError(message)
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        message = f"{what} is not JSON: line {error.lineno}, column {error.colno}"
    except JsonInvalidError as error:
        message = f"{what} holds {error.detail}"
    except (ValueError, RecursionError):
        message = f"{what} holds a number that is too long"
    raise JsonInvalidError(message)


def _is_too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for token in _STRUCTURE.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif first in "]}":
            depth -= 1
    return False


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        message = "an object that names a member twice"
        raise JsonInvalidError(message)
    return members


def _refuse_constant(_text: str) -> NoReturn:
    message = "NaN or Infinity, which JSON has not"
    raise JsonInvalidError(message)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        message = "a number that is too large"
        raise JsonInvalidError(message)
    return number


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_each_once, parse_constant=_refuse_constant, parse_float=_finite)
