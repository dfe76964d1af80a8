"""The moments at which something has to happen to leases."""

import heapq
import itertools
import math
from collections.abc import Iterator

from broker.clock import Clock
from broker.leases.held import Held


class Agenda:
    """Hold one moment for each lease; an earlier one that was noted for it does not count any more."""

    def __init__(self, *, clock: Clock) -> None:
        """Begin with none."""
        self._clock = clock
        self._moments: list[tuple[float, int, Held]] = []
        self._ties = itertools.count()

    def remind(self, held: Held, moment: float) -> None:
        """Let `due` return `held` from the steady time `moment` on, and at no other."""
        held.moment = moment
        if moment < math.inf:
            heapq.heappush(self._moments, (moment, next(self._ties), held))

    def due(self) -> Iterator[Held]:
        """Yield each lease whose moment has come."""
        now = self._clock.monotonic()
        while self._moments and self._moments[0][0] <= now:
            moment, _, held = heapq.heappop(self._moments)
            if held.moment == moment:
                held.moment = math.inf
                yield held
