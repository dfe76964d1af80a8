"""Those who wait, in lanes that are served in rotation: a lane with many gets no more turns than one with few."""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

WaitingT = TypeVar("WaitingT")


class Lanes(Generic[WaitingT]):
    """Keep who waits, in the order in which they came within each lane."""

    __slots__ = ("_lanes", "_waiting")

    def __init__(self) -> None:
        """Begin with nobody."""
        self._lanes: OrderedDict[Hashable, deque[WaitingT]] = OrderedDict()
        self._waiting = 0

    def __len__(self) -> int:
        """Return how many wait in all."""
        return self._waiting

    def waiting(self, lane: Hashable) -> int:
        """Return how many wait in `lane`."""
        return len(self._lanes.get(lane, ()))

    def next(self) -> Hashable:
        """Return the lane whose turn it is; somebody has to wait."""
        return next(iter(self._lanes))

    def heads(self) -> tuple[tuple[Hashable, WaitingT], ...]:
        """Return who is first in each lane, the lane whose turn it is first."""
        return tuple((lane, queue[0]) for lane, queue in self._lanes.items())

    def add(self, lane: Hashable, one: WaitingT) -> None:
        """Let `one` wait as the last in `lane`."""
        self._lanes.setdefault(lane, deque()).append(one)
        self._waiting += 1

    def take(self, lane: Hashable) -> WaitingT:
        """Return who is first in `lane` and waits no more; every other lane has its turn before this one again."""
        queue = self._lanes[lane]
        one = queue.popleft()
        self._waiting -= 1
        if queue:
            self._lanes.move_to_end(lane)
        else:
            del self._lanes[lane]
        return one

    def remove(self, lane: Hashable, one: WaitingT) -> None:
        """Let `one` wait no more, if it does."""
        queue = self._lanes.get(lane)
        if queue is not None and one in queue:
            queue.remove(one)
            self._waiting -= 1
            if not queue:
                del self._lanes[lane]
