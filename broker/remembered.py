"""What was read, held in bounded memory, with the moments at which something has to happen to it."""

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from broker.clock import Clock
from broker.reference import Source
from broker.secret import Reading

# Moments of entries that are gone may stay until there are this many more than entries, twice.
_SPARE_MOMENTS: Final = 1000

Fetch = Callable[[Source], Awaitable[Reading]]


class Clocks(NamedTuple):
    """The two clocks of a policy, in seconds since the read began."""

    fresh_for: float
    gone_after: float

    @classmethod
    def of(cls, fresh_for: float, max_stale: float) -> "Clocks":
        """Return both; the second one counts from the read too, zero switches it off, and the first ends with it."""
        gone = max_stale if max_stale > 0 else fresh_for
        return cls(min(fresh_for, gone), gone)


@dataclass(frozen=True, slots=True)
class LeaseFacts:
    """What an asker is told of a lease: the broker's name of it, its end (wall seconds), whether it may live longer."""

    id: str
    expires_at: float
    renewable: bool


@dataclass(frozen=True, slots=True)
class Cached:
    """One reading with its clocks.

    Attributes:
        reading: What was read.
        fetched_at: Wall time at which the read began.
        fresh_until: Wall time of the end of the first clock.
        stale_until: Wall time of the end of the second clock; `fresh_until` when it is switched off.
        stale: The first clock has ended, and the source gave nothing newer.
        lease: What it is leased by; None when it is not.
        derived: What was made of it for one answer and serves the next one too; it goes when the reading goes.

    """

    reading: Reading
    fetched_at: float
    fresh_until: float
    stale_until: float
    stale: bool
    lease: LeaseFacts | None = None
    derived: dict[tuple[str, str], object] = field(default_factory=dict, repr=False, compare=False)


@dataclass(slots=True)
class Entry:
    """One reading in memory. Steady times are of `Clock.monotonic`.

    Attributes:
        reading: What was read.
        fetch: How it was read, for the next time.
        fetched_at: Wall time at which the read began.
        born: Steady time at which the read began.
        dies: Steady time at which the source itself says it is gone.
        clocks: Of those for whom it was read.
        early: The part of the fresh time after which a refresh may start, drawn for each entry; -1 when outdated.
        lasts_until: Steady end of the longest second clock that it was asked with.
        asked_age: Its age in seconds when somebody asked for it last; None when nobody has.
        retry_at: Steady time before which the source is not asked again.
        answered: The answer given last while it was fresh, with its clocks: nearly every look-up has the same ones.

    """

    reading: Reading
    fetch: Fetch
    fetched_at: float
    born: float
    dies: float
    clocks: Clocks
    early: float
    lasts_until: float
    asked_age: float | None = None
    retry_at: float = -math.inf
    answered: tuple[Clocks, Cached] | None = None

    @property
    def refresh_at(self) -> float:
        """Return the steady time from which it is read again if somebody asked; never when nothing is ever fresh."""
        max_age = self.reading.facts.max_age
        fresh_for = self.clocks.fresh_for if max_age is None else min(self.clocks.fresh_for, max_age)
        return self.born + fresh_for * self.early if fresh_for > 0 else math.inf

    @property
    def outdated(self) -> bool:
        """Tell whether somebody said that there is a newer one."""
        return self.early < 0

    def outdate(self) -> None:
        """Let it be fresh to nobody any more, and be read again whether somebody asked or not."""
        # The part of the fresh time that counts is what every look-up compares with, so that costs no look-up anything.
        self.early = -1.0

    def was_asked_lately(self, now: float) -> bool:
        """Tell whether somebody asked since it was read, within one fresh time before the steady time `now`."""
        return self.asked_age is not None and now - self.born - self.asked_age <= self.clocks.fresh_for

    def ask(self, clocks: Clocks, *, age: float) -> None:
        """Note that somebody asked at `age` seconds, and let it last as long as that one may use it."""
        self.asked_age = age
        self.lasts_until = max(self.lasts_until, min(self.dies, self.born + clocks.gone_after))

    def answer(self, clocks: Clocks) -> Cached:
        """Return the answer for somebody with `clocks`, to whom the reading is fresh."""
        if self.answered is None or self.answered[0] != clocks:
            self.answered = clocks, self.made(clocks, stale=False)
        return self.answered[1]

    def made(self, clocks: Clocks, *, stale: bool) -> Cached:
        """Return a new answer for somebody with `clocks`."""
        end = math.inf if self.reading.not_after is None else self.reading.not_after
        return Cached(
            reading=self.reading,
            fetched_at=self.fetched_at,
            fresh_until=min(end, self.fetched_at + clocks.fresh_for),
            stale_until=min(end, self.fetched_at + clocks.gone_after),
            stale=stale,
        )


class Memory:
    """Hold entries by source, bounded in number and bytes; what was not used for longest goes first."""

    def __init__(self, *, clock: Clock, max_entries: int, max_bytes: int) -> None:
        """Hold at most `max_entries` entries with `max_bytes` of values."""
        self._clock = clock
        self._max_entries = max_entries
        self._max_bytes = max_bytes
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

    def keep(self, source: Source, entry: Entry) -> int:
        """Hold `entry` in place of what was held of `source`; return how many others had to go."""
        self.forget(source)
        size = entry.reading.document.size
        if self._max_entries < 1 or size > self._max_bytes:
            return 0
        self._entries[source] = entry
        self.size += size
        self.remind(source, entry, min(entry.refresh_at, entry.lasts_until))
        evicted = 0
        while len(self._entries) > self._max_entries or self.size > self._max_bytes:
            self.forget(next(iter(self._entries)))
            evicted += 1
        return evicted

    def forget(self, source: Source) -> None:
        """Let go of `source`."""
        entry = self._entries.pop(source, None)
        self._latest.pop(source, None)
        if entry is not None:
            self.size -= entry.reading.document.size

    def shrink(self, size: int) -> int:
        """Let go of what was not used for longest until at most `size` bytes are held; return how many entries went."""
        gone = 0
        while self.size > size:
            self.forget(next(iter(self._entries)))
            gone += 1
        return gone

    def clear(self) -> None:
        """Let go of everything."""
        self._entries.clear()
        self._moments.clear()
        self._latest.clear()
        self.size = 0

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
