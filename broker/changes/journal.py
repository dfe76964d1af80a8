"""The last changes of what is watched, numbered, so that a watcher may go on after the one that it saw last."""

import re
import secrets
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from broker.reference import Source

_CHANGES: Final = 10_000
# Bounded: Python refuses to read a number of thousands of digits, and a peer may send one.
_NUMBER: Final = re.compile(r"[0-9]{1,18}\Z")


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one source; `version` is None when it is gone, or has no versions."""

    number: int
    source: Source
    version: str | None
    gone: bool


class Journal:
    """Number the changes of one run of the broker, and keep the last ones."""

    def __init__(self) -> None:
        """Begin with none; a position of another run is told from one of this by its epoch."""
        self._epoch = secrets.token_hex(4)
        self._changes: deque[Change] = deque(maxlen=_CHANGES)
        self.number = 0

    @property
    def position(self) -> str:
        """Return the id of the last change."""
        return f"{self._epoch}-{self.number}"

    @property
    def complete_after(self) -> int:
        """Return the number after which no change is missing here."""
        return self._changes[0].number - 1 if self._changes else self.number

    def add(self, source: Source, *, version: str | None, gone: bool) -> Change:
        """Keep a change, and return it."""
        self.number += 1
        change = Change(self.number, source, version, gone)
        self._changes.append(change)
        return change

    def number_at(self, unverified_position: str) -> int | None:
        """Return the number of the change with that id, None when it is none of this run."""
        epoch, _, digits = unverified_position.partition("-")
        if epoch != self._epoch or _NUMBER.match(digits) is None or int(digits) > self.number:
            return None
        return int(digits)

    def since(self, number: int) -> Iterator[Change]:
        """Return the changes after the one with `number`, as far as they are kept."""
        return (change for change in self._changes if change.number > number)
