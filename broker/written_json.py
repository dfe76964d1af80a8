"""JSON whose numbers stay as they were written: a float would change the digits of `1.10`. Pure."""

import json
from dataclasses import dataclass
from typing import Any, Final

# More digits than Python turns into an integer for granted, or than anybody counts with.
_MAX_DIGITS: Final = 300


@dataclass(frozen=True, slots=True)
class WrittenNumber:
    """A number that Python would write in another way than its source did."""

    text: str

    def __float__(self) -> float:
        """Return the nearest float."""
        return float(self.text)


def read(data: bytes) -> Any:  # noqa: ANN401  JSON can be anything.
    """Return what `data` says, with each number as it is written there.

    Raises:
        ValueError: It is no JSON.
        RecursionError: It is nested too deep.

    """
    return _DECODER.decode(data.decode("utf-8", "surrogatepass"))


def spell(node: object) -> str:
    """Return a node of what `read` gave as JSON, without spaces.

    Raises:
        ValueError: It holds something that is no JSON.

    """
    try:
        return json.dumps(node, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except TypeError:
        # It holds a number of ours, which that one can't write; nearly nothing does.
        return _spelled(node)


def _spelled(node: object) -> str:
    match node:
        case WrittenNumber(text):
            return text
        case dict():
            pairs = (f"{json.dumps(key, ensure_ascii=False)}:{_spelled(value)}" for key, value in node.items())
            return "{" + ",".join(pairs) + "}"
        case list():
            return "[" + ",".join(map(_spelled, node)) + "]"
        case _:
            return json.dumps(node, ensure_ascii=False, allow_nan=False)


def _decimal(text: str) -> float | WrittenNumber:
    number = float(text)
    return number if repr(number) == text else WrittenNumber(text)


def _integer(text: str) -> int | WrittenNumber:
    return int(text) if len(text) <= _MAX_DIGITS and text != "-0" else WrittenNumber(text)


_DECODER: Final = json.JSONDecoder(parse_float=_decimal, parse_int=_integer)
