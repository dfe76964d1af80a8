"""What was read, remembered for as long as policy says, and read once however many ask at once.

Each answer has two clocks, counted from the start of the read. Within `fresh_for` memory answers, and what
was asked for is read again behind, shortly before it ends. From there to `max_stale` one refresh runs, and
memory answers as `stale` when it fails or is slow. After that the value is gone. The key is the source and
never the caller: policy is asked before this module is.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable
from typing import Final

from broker.cache.fetches import Fetches
from broker.cache.flights import Flight, Flights
from broker.cache.memory import Memory
from broker.cache.refusals import Refusals
from broker.cache.remembered import Cached, Clocks, Entry, Fetch
from broker.clock import Clock
from broker.errors import SourceUnavailableError
from broker.metrics import Metrics, Outlook
from broker.reference import Source
from broker.secret import Reading

# How often it is looked whether something is due, and how long a refresh behind waits after a failure at least.
_REFRESH_STEP: Final = 0.5
_RETRY_BEHIND: Final = 5.0
# Entries that an order is compared with in one go, at most 64 patterns each; and how many it lets be read a second.
_ORDER_STEP: Final = 25
_ORDERED_PER_SECOND: Final = 50.0


Concerns = Callable[[Source], bool]


class Cache:
    """Answer from memory, refresh behind, and read each source once at a time."""

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: Metrics,
        max_entries: int,
        max_bytes: int,
        fetch_seconds: float,
        negative_seconds: float = 3.0,
        refresh_wait: float = 0.25,
    ) -> None:
        """Remember at most `max_entries` sources and `max_bytes` of values.

        Args:
            clock: Tells ages.
            metrics: Counts look-ups.
            max_entries: Sources held at once.
            max_bytes: Bytes of values held at once.
            fetch_seconds: Time for one read.
            negative_seconds: Time for which it is remembered that a source is missing or denied.
            refresh_wait: Time that a caller waits for a refresh before it gets the stale value.

        """
        self._clock = clock
        self._metrics = metrics
        self._memory = Memory(clock=clock, metrics=metrics, max_entries=max_entries, max_bytes=max_bytes)
        self._refusals = Refusals(clock=clock, seconds=negative_seconds, max_entries=max_entries)
        self._flights = Flights()
        self._fetches = Fetches(
            memory=self._memory,
            refusals=self._refusals,
            flights=self._flights,
            clock=clock,
            metrics=metrics,
            seconds=fetch_seconds,
        )
        self._refresh_wait = refresh_wait
        self._random = random.Random().random  # noqa: S311  A pause is no secret.

    def lookup(self, source: Source, *, fresh_for: float, max_stale: float) -> Cached | None:
        """Return what is fresh in memory, else None; the quick way before `get`."""
        entry = self._memory.get(source)
        if entry is None:
            return None
        clocks = Clocks.of(fresh_for, max_stale)
        age = self._memory.age(entry)
        if age is None or age > clocks.fresh_for * entry.early:
            return None
        self._memory.use(source)
        entry.ask(clocks, age=age)
        self._metrics.cache_lookup("hit")
        return entry.answer(clocks)

    async def get(self, source: Source, *, fresh_for: float, max_stale: float, fetch: Fetch) -> Cached:
        """Return `source` from memory or by `fetch`, which runs once for everyone who asks meanwhile.

        Raises:
            SecretMissingError: As `fetch`; what was remembered is dropped.
            UpstreamDeniedError: As `fetch`; what was remembered is dropped.
            SecretUnusableError: As `fetch`; what was remembered is dropped.
            SourceUnavailableError: As `fetch` or too slow, and nothing usable is remembered.

        """
        hit = self.lookup(source, fresh_for=fresh_for, max_stale=max_stale)
        if hit is not None:
            return hit
        clocks = Clocks.of(fresh_for, max_stale)
        remembered = self._usable(source, clocks)
        if remembered is not None:
            self._memory.use(source)
            remembered.ask(clocks, age=self._clock.monotonic() - remembered.born)
            answer = await self._refreshed(source, remembered, clocks, fetch)
            if answer is not None:
                return answer
        flight = self._flights.find(source)
        if flight is None:
            refusal = self._refusals.find(source, max_age=clocks.fresh_for)
            if refusal is not None:
                self._metrics.cache_lookup("refused")
                raise refusal.with_traceback(None)
        self._metrics.cache_lookup("miss" if flight is None else "joined")
        flight = flight or self._fetches.begin(source, fetch, clocks)
        entry = await flight.landed()
        return entry.made(clocks, stale=False)

    def drop(self, source: Source) -> None:
        """Forget `source`, and let no read that is under way bring it back."""
        self._memory.forget(source)
        self._refusals.forget(source)
        self._flights.forget(source)

    def clear(self) -> None:
        """Forget everything, and let no read that is under way bring it back."""
        self._memory.clear()
        self._refusals.clear()
        self._flights.clear()

    def grow_at_most(self, size: int) -> None:
        """Hold at most `size` bytes of values more than now, until this is said anew."""
        self._memory.grow_at_most(size)

    def give_way(self) -> int:
        """Let go of half of the bytes that are held, the least used first; return how many bytes that were."""
        before = self._memory.size
        self._memory.shrink(before // 2)
        return before - self._memory.size

    async def invalidate(self, concerns: Concerns | None) -> int:
        """Forget the sources that `concerns` names, or all of them; return how many that were."""
        named = await self._named(concerns)
        for source in named:
            self.drop(source)
        return len(named)

    async def renew(self, concerns: Concerns | None) -> int:
        """Let the sources that `concerns` names, or all of them, be read again; return how many that are.

        What is remembered serves as `stale`, and only as long as its source can't answer. What somebody asks for is
        read at once, and the rest behind, one after the other.
        """
        named = await self._named(concerns)
        now = self._clock.monotonic()
        for source in named:
            # A read that is under way may have begun before whatever the order is about.
            self._flights.forget(source)
            self._refusals.forget(source)
            entry = self._memory.get(source)
            if entry is not None and not entry.outdated:
                entry.outdate()
                self._memory.remind(source, entry, now + self._random() * len(named) / _ORDERED_PER_SECOND)
        return len(named)

    async def _named(self, concerns: Concerns | None) -> list[Source]:
        """Return the sources that are held, refused or being read now, pausing for others now and then."""
        held = (source for source, _ in self._memory.items())
        sources = list(dict.fromkeys(itertools.chain(self._flights.sources(), self._refusals.sources(), held)))
        if concerns is None:
            return sources
        named: list[Source] = []
        for start in range(0, len(sources), _ORDER_STEP):
            named += filter(concerns, sources[start : start + _ORDER_STEP])
            await asyncio.sleep(0)
        return named

    def held(self) -> tuple[tuple[Source, Entry], ...]:
        """Return what is remembered now."""
        return self._memory.items()

    def restore(self, source: Source, reading: Reading, *, fetched_at: float, ends_at: float, fetch: Fetch) -> None:
        """Remember what an earlier run read: `stale` until its source has answered, and fresh to nobody.

        The times are wall times; `ends_at` is when nobody may use it any more.
        """
        born = self._clock.monotonic() - (self._clock.now() - fetched_at)
        entry = Entry.restored(reading, fetched_at=fetched_at, ends_at=ends_at, born=born, fetch=fetch)
        self._memory.keep(source, entry)

    async def keep_fresh(self) -> None:
        """Read again behind, for ever, what was asked for and is about to be no longer fresh."""
        while True:
            self.refresh_due()
            await asyncio.sleep(_REFRESH_STEP)

    def refresh_due(self) -> None:
        """Begin to read what is due, and let go of what nobody may use any more."""
        now = self._clock.monotonic()
        for source, entry in self._memory.due():
            if now >= entry.lasts_until:
                self._memory.forget(source)
            elif not (entry.outdated or entry.was_asked_lately(now)):
                self._memory.remind(source, entry, entry.lasts_until)
            else:
                if now >= entry.retry_at and self._flights.find(source) is None:
                    self._fetches.begin(source, entry.fetch, entry.clocks)
                # Should that fail, it is tried again, and meanwhile the value grows stale.
                again = now + _RETRY_BEHIND * (1.0 + self._random())
                self._memory.remind(source, entry, min(again, entry.lasts_until))

    async def outlook(self, providers: Iterable[str]) -> dict[str, Outlook]:
        """Return how long memory lasts for the sources of each of `providers`, pausing for others now and then."""
        return await self._memory.outlook(providers)

    async def aclose(self) -> None:
        """End every read and forget everything; a second call does nothing."""
        await self._flights.aclose()
        self.clear()

    async def _refreshed(self, source: Source, entry: Entry, clocks: Clocks, fetch: Fetch) -> Cached | None:
        """Return a newer reading, or the remembered one; None when its second clock ended meanwhile."""
        flight = self._flights.find(source)
        if flight is None and self._clock.monotonic() >= entry.retry_at:
            flight = self._fetches.begin(source, fetch, clocks)
        age = self._memory.age(entry)
        if age is not None and age <= clocks.fresh_for and not entry.outdated:
            self._metrics.cache_lookup("hit")
            return entry.answer(clocks)
        if flight is not None:
            newer = await self._newer(flight)
            if newer is not None:
                self._metrics.cache_lookup("miss")
                return newer.answer(clocks)
        # A drop, or the end of the second clock, may have come while the refresh ran.
        if self._memory.get(source) is not entry or self._usable(source, clocks) is None:
            return None
        self._metrics.cache_lookup("stale")
        return entry.made(clocks, stale=True)

    async def _newer(self, flight: Flight) -> Entry | None:
        try:
            async with asyncio.timeout(self._refresh_wait):
                return await flight.landed()
        except (TimeoutError, SourceUnavailableError):
            return None

    def _usable(self, source: Source, clocks: Clocks) -> Entry | None:
        entry = self._memory.get(source)
        age = None if entry is None else self._memory.age(entry)
        return entry if age is not None and age <= clocks.gone_after else None
