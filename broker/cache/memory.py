"""What was read, held in bounded memory, with the moments at which something has to happen to it."""

import asyncio
import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

from broker.cache.remembered import Entry
from broker.clock import Clock
from broker.reference import Source
from broker.series.cache import CacheSeries, Outlook

# Moments of entries that are gone may stay until there are this many more than entries, twice.
_SPARE_MOMENTS: Final = 1000
# Entries that are looked at in one go, which takes less than a millisecond.
_OUTLOOK_STEP: Final = 500


class Memory:
    """Hold entries by source, bounded in number and bytes; what was not used for longest goes first."""

    def __init__(self, *, clock: Clock, metrics: CacheSeries, max_entries: int, max_bytes: int) -> None:
        """Hold at most `max_entries` entries with `max_bytes` of values; `metrics` is told how much that is."""
        self._clock = clock
        self._metrics = metrics
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bound = max_bytes
        self._entries: OrderedDict[Source, Entry] = OrderedDict()
        # A heap of no values: an entry that is let go must not live on here. Its moment counts while it is the latest.
        self._moments: list[tuple[float, int, Source]] = []
        self._latest: dict[Source, int] = {}
        self._ties = itertools.count()
        self.size = 0

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def get(self, source: Source) -> Entry | None:
        """Return the entry of `source`, whatever its age."""
        return self._entries.get(source)

    def use(self, source: Source) -> None:
        """Note that the entry of `source` serves somebody now."""
        self._entries.move_to_end(source)

    def items(self) -> tuple[tuple[Source, Entry], ...]:
        """Return what is held now."""
        return tuple(self._entries.items())

    def keep(self, source: Source, entry: Entry) -> None:
        """Hold `entry` in place of what was held of `source`; what was not used for longest makes room for it."""
        self._let_go(source)
        evicted = 0
        size = entry.reading.document.size
        if self._max_entries >= 1 and size <= self._bound:
            self._entries[source] = entry
            self.size += size
            self.remind(source, entry, min(entry.refresh_at, entry.lasts_until))
            while len(self._entries) > self._max_entries or self.size > self._bound:
                self._let_go(next(iter(self._entries)))
                evicted += 1
        self._report(evicted)

    def forget(self, source: Source) -> None:
        """Let go of `source`."""
        self._let_go(source)
        self._report()

    def grow_at_most(self, size: int) -> None:
        """Hold at most `size` bytes more than now, until this is said anew."""
        self._bound = min(self._max_bytes, self.size + size)

    def shrink(self, size: int) -> None:
        """Let go of what was not used for longest until at most `size` bytes are held."""
        evicted = 0
        while self.size > size:
            self._let_go(next(iter(self._entries)))
            evicted += 1
        self._report(evicted)

    def clear(self) -> None:
        """Let go of everything."""
        self._entries.clear()
        self._moments.clear()
        self._latest.clear()
        self.size = 0
        self._report()

    def age(self, entry: Entry) -> float | None:
        """Return the age in seconds, None when the source's own end has come by either clock."""
        now = self._clock.monotonic()
        if now >= entry.dies:
            return None
        not_after = entry.reading.not_after
        if not_after is not None and self._clock.now() >= not_after:
            return None
        return now - entry.born

    def remind(self, source: Source, entry: Entry, moment: float) -> None:
        """Let `due` return `entry` from the steady time `moment` on; each entry has one such moment at a time."""
        if moment == math.inf or self._entries.get(source) is not entry:
            return
        if len(self._moments) > 2 * len(self._entries) + _SPARE_MOMENTS:
            self._moments = [known for known in self._moments if self._latest.get(known[2]) == known[1]]
            heapq.heapify(self._moments)
        tie = self._latest[source] = next(self._ties)
        heapq.heappush(self._moments, (moment, tie, source))

    def due(self) -> Iterator[tuple[Source, Entry]]:
        """Yield each entry whose moment has come, and that is still in memory."""
        now = self._clock.monotonic()
        while self._moments and self._moments[0][0] <= now:
            _, tie, source = heapq.heappop(self._moments)
            if self._latest.get(source) == tie:
                yield source, self._entries[source]

    async def outlook(self, providers: Iterable[str]) -> dict[str, Outlook]:
        """Return how long memory lasts for the sources of each of `providers`, pausing for others now and then."""
        found = {provider: Outlook() for provider in providers}
        entries = self.items()
        for start in range(0, len(entries), _OUTLOOK_STEP):
            steady = self._clock.monotonic()
            ahead = self._clock.now() - steady
            for source, entry in entries[start : start + _OUTLOOK_STEP]:
                if entry.lasts_until > steady and source.scheme in found:
                    found[source.scheme].add(
                        end=entry.lasts_until + ahead,
                        created_at=entry.reading.created_at,
                        overdue=entry.reading.is_overdue(steady + ahead),
                    )
            await asyncio.sleep(0)
        return found

    def _let_go(self, source: Source) -> None:
        entry = self._entries.pop(source, None)
        self._latest.pop(source, None)
        if entry is not None:
            self.size -= entry.reading.document.size

    def _report(self, evicted: int = 0) -> None:
        self._metrics.cache_size(entries=len(self._entries), size=self.size, evicted=evicted)
