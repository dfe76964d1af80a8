"""The cache that gives way before the memory limit of the platform is reached.

A process that reaches the limit of its control group is killed, with every request in flight. What the cache
holds can be read again, so it goes first.
"""

import asyncio
import ctypes
from collections.abc import Callable
from typing import Final, Protocol

from broker.cache.control_group import MemoryUse, memory_use
from broker.clock import Clock
from broker.logs import EventLogger
from broker.series.memory import MemorySeries

_LOG: Final = EventLogger("broker.memory")
# From here on the cache gives way, a half of it at each look.
_HIGH: Final = 0.85
# A field that was asked for stands in memory beside the document that it is out of.
_TIMES: Final = 2
# Memory is looked at again before it can be used up, at this many bytes a second: measured with values of 1 MiB, a
# burst fills 170 MiB a second on two cores.
_FASTEST: Final = 512 * 1024 * 1024
_SHORTEST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
_LINE_SECONDS: Final = 60.0


class GivesWay(Protocol):
    """Holds what can be read again."""

    def grow_at_most(self, size: int) -> None:
        """Hold at most `size` bytes more than now, until this is said anew."""
        ...

    def give_way(self) -> int:
        """Let go of half of it, the least used first; return how many bytes that were."""
        ...


class MemoryLimit:
    """Let the cache give way whenever the memory in use comes near its limit."""

    def __init__(
        self,
        *,
        cache: GivesWay,
        metrics: MemorySeries,
        clock: Clock,
        look: Callable[[], MemoryUse | None] = memory_use,
    ) -> None:
        """Keep the collaborators.

        Args:
            cache: Gives way.
            metrics: States the use, and counts how often something gave way.
            clock: Tells when the log was told last.
            look: Returns the use and the limit; called in a thread.

        """
        self._cache = cache
        self._metrics = metrics
        self._clock = clock
        self._look = look
        self._told_at: float | None = None
        self._freed = 0

    async def keep(self) -> None:
        """Look for ever, the more often the less is left."""
        while True:
            use = await asyncio.to_thread(self._look)
            if use is not None:
                self._metrics.memory(limit=use.limit, used=use.used)
                # Until it is looked again, nothing that is read can use up more than there is.
                self._cache.grow_at_most(max(0, int(_HIGH * use.limit) - use.used) // _TIMES)
                if use.used > _HIGH * use.limit and (freed := self._cache.give_way()):
                    self._metrics.gave_way()
                    self._tell(use, freed)
                    await asyncio.to_thread(_return_to_the_kernel)
            await asyncio.sleep(next_look(use))

    def _tell(self, use: MemoryUse, freed: int) -> None:
        """Write a line, unless there was one lately; then its figure is part of the next one's."""
        self._freed += freed
        now = self._clock.monotonic()
        if self._told_at is None or now - self._told_at >= _LINE_SECONDS:
            _LOG.warning("memory_high", limit_bytes=use.limit, used_bytes=use.used, cache_bytes_freed=self._freed)
            self._told_at, self._freed = now, 0


def next_look(use: MemoryUse | None) -> float:
    """Return the seconds until it has to be looked again, so that what is left can't be used up before."""
    if use is None:
        return _LONGEST_PAUSE
    left = (_HIGH * use.limit - use.used) / _FASTEST
    return min(max(left, _SHORTEST_PAUSE), _LONGEST_PAUSE)


def _return_to_the_kernel() -> None:
    """Let the C library return what has been freed; by itself it keeps most of it for later, and is counted for it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        # glibc alone has it; others return pages by themselves.
        trim(ctypes.c_size_t(0))
