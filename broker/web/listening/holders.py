"""Who holds the connections: so that one identity can't take every place, and idle ones give way to who waits.

An agent that is taken over may open as many connections as it likes, and keep each of them busy or alive. What it
holds beyond its share it takes from itself, and what lies idle is nobody's while somebody else waits.
"""

from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Final, Protocol

# Connections that are ended at once when somebody waits; who waits behind that one is let in without another look.
_AT_ONCE: Final = 8
# One holder has at most so many times what is free: seven eighths of the places, when nobody else has any.
_TIMES_FREE: Final = 7


class Held(Protocol):
    """One open connection."""

    @property
    def idle_seconds(self) -> float | None:
        """Return for how long nothing has been asked; None while something is answered."""
        ...

    def cut(self) -> None:
        """End the connection."""
        ...


class Holders:
    """Know which connections each identity, or each address where there are none, has open."""

    def __init__(self, *, places: int | None, idle_seconds: float, gave_way: Callable[[], None] = lambda: None) -> None:
        """Begin with none.

        Args:
            places: How many there are for all; None lets every holder have all of them.
            idle_seconds: Time that a client may take from its connection, or from an answer, to its next request.
            gave_way: Told of each connection that is ended for another.

        """
        self._places = places
        self._idle_seconds = idle_seconds
        self._gave_way = gave_way
        self._count = 0
        # In the order in which they were opened, which is roughly that of being idle.
        self._held: defaultdict[str, dict[Held, None]] = defaultdict(dict)

    def enter(self, name: str, connection: Held) -> bool:
        """Let `name` have one more, for which an idle one of its own makes room; return whether it may."""
        mine = self._held[name]
        if self._has_enough(mine) and not self._end_idle(mine, at_most=1):
            return False
        mine[connection] = None
        self._count += 1
        return True

    def leave(self, name: str, connection: Held) -> None:
        """Forget `connection`; a second call does nothing."""
        mine = self._held.get(name, {})
        if connection in mine:
            del mine[connection]
            self._count -= 1
        if not mine:
            self._held.pop(name, None)

    def _has_enough(self, mine: Collection[Held]) -> bool:
        # By what is free now, and not by a number: so two that are greedy leave an eighth of an eighth, and so on.
        return self._places is not None and len(mine) >= _TIMES_FREE * (self._places - self._count)

    def make_room(self) -> None:
        """End connections that are idle, of the identity that has most of them open."""
        for mine in sorted(self._held.values(), key=len, reverse=True):
            if self._end_idle(mine, at_most=_AT_ONCE):
                return

    def _end_idle(self, mine: dict[Held, None], *, at_most: int) -> bool:
        idle = [held for held in mine if (held.idle_seconds or 0.0) >= self._idle_seconds][:at_most]
        for held in idle:
            # Forgotten now: its end may take a moment, in which it counts no more.
            del mine[held]
            self._count -= 1
            held.cut()
            self._gave_way()
        return bool(idle)
