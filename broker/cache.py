"""What was read, remembered for as long as policy says, and read once however many ask at once.

Each answer has two clocks, counted from the start of the read. Within `fresh_for` memory answers, and what
was asked for is read again behind, shortly before it ends. From there to `max_stale` one refresh runs, and
memory answers as `stale` when it fails or is slow. After that the value is gone. The key is the source and
never the caller: policy is asked before this module is.
"""

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from broker.clock import Clock
from broker.errors import FetchError, SourceUnavailableError
from broker.flights import Flight, Flights
from broker.metrics import Metrics, Outlook
from broker.reference import Source
from broker.refusals import Refusals
from broker.remembered import Cached, Clocks, Entry, Fetch, Memory
from broker.secret import Reading

# A refresh may start in the last tenth of the fresh time, at a moment drawn for each entry, so that what
# was read together at the start of a thousand agents is not read together again.
_EARLY: Final = 0.1
# How often it is looked whether something is due, and how long a refresh behind waits after a failure at least.
_REFRESH_STEP: Final = 0.5
# Nobody can have a source read more often than this by what is said about it.
_YOUNGEST: Final = 1.0
_RETRY_BEHIND: Final = 5.0
# Entries that are looked at in one go, which takes less than a millisecond.
_OUTLOOK_STEP: Final = 500
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
        self._memory = Memory(clock=clock, max_entries=max_entries, max_bytes=max_bytes)
        self._refusals = Refusals(clock=clock, seconds=negative_seconds, max_entries=max_entries)
        self._fetch_seconds = fetch_seconds
        self._refresh_wait = refresh_wait
        self._flights = Flights()
        self._random = random.Random().random  # noqa: S311  A pause is no secret, and each draw from the system a call to it.

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
        flight = flight or self._start(source, fetch, clocks)
        entry = await flight.landed()
        return entry.made(clocks, stale=False)

    def drop(self, source: Source) -> None:
        """Forget `source`, and let no read that is under way bring it back."""
        self._memory.forget(source)
        self._refusals.forget(source)
        self._flights.forget(source)
        self._report()

    def clear(self) -> None:
        """Forget everything, and let no read that is under way bring it back."""
        self._memory.clear()
        self._refusals.clear()
        self._flights.clear()
        self._report()

    def give_way(self) -> int:
        """Let go of half of the bytes that are held, the least used first; return how many bytes that were."""
        before = self._memory.size
        self._report(self._memory.shrink(before // 2))
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
        ends = born + ends_at - fetched_at
        entry = Entry(
            reading=replace(reading, not_after=ends_at),
            fetch=fetch,
            fetched_at=fetched_at,
            born=born,
            dies=ends,
            clocks=Clocks(0.0, ends_at - fetched_at),
            early=1.0,
            lasts_until=ends,
        )
        entry.outdate()
        self._report(self._memory.keep(source, entry))

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
                self._report()
            elif not (entry.outdated or entry.was_asked_lately(now)):
                self._memory.remind(source, entry, entry.lasts_until)
            else:
                if now >= entry.retry_at and self._flights.find(source) is None:
                    self._start(source, entry.fetch, entry.clocks)
                # Should that fail, it is tried again, and meanwhile the value grows stale.
                again = now + _RETRY_BEHIND * (1.0 + self._random())
                self._memory.remind(source, entry, min(again, entry.lasts_until))

    async def outlook(self, providers: Iterable[str]) -> dict[str, Outlook]:
        """Return how long memory lasts for the sources of each of `providers`, pausing for others now and then."""
        found = {provider: Outlook() for provider in providers}
        entries = self._memory.items()
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

    async def aclose(self) -> None:
        """End every read and forget everything; a second call does nothing."""
        await self._flights.aclose()
        self.clear()

    async def _refreshed(self, source: Source, entry: Entry, clocks: Clocks, fetch: Fetch) -> Cached | None:
        """Return a newer reading, or the remembered one; None when its second clock ended meanwhile."""
        flight = self._flights.find(source)
        if flight is None and self._clock.monotonic() >= entry.retry_at:
            flight = self._start(source, fetch, clocks)
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

    def _start(self, source: Source, fetch: Fetch, clocks: Clocks) -> Flight:
        return self._flights.begin(source, lambda flight: self._fly(source, fetch, flight, clocks))

    async def _fly(self, source: Source, fetch: Fetch, flight: Flight, clocks: Clocks) -> Entry | FetchError:
        born, fetched_at = self._clock.monotonic(), self._clock.now()
        try:
            async with asyncio.timeout(self._fetch_seconds):
                reading = await fetch(source)
        except TimeoutError:
            return self._failed(source, flight, SourceUnavailableError("the source did not answer in time"))
        except FetchError as error:
            return self._failed(source, flight, error)
        finally:
            self._metrics.fetched(provider=source.scheme, seconds=max(0.0, self._clock.monotonic() - born))
        reading = _shortened(reading, fetched_at)
        dies = math.inf if reading.not_after is None else born + reading.not_after - fetched_at
        entry = Entry(
            reading=reading,
            fetch=fetch,
            fetched_at=fetched_at,
            born=born,
            dies=dies,
            clocks=clocks,
            early=1.0 - _EARLY * self._random(),
            lasts_until=min(dies, born + clocks.gone_after),
        )
        if self._flights.find(source) is flight:
            self._refusals.forget(source)
            self._report(self._memory.keep(source, entry))
        return entry

    def _failed(self, source: Source, flight: Flight, error: FetchError) -> FetchError:
        """Note what the source said: it can't answer, so wait, or it says no, so forget."""
        if self._flights.find(source) is flight:
            pause = self._refusals.keep(source, error)
            if not isinstance(error, SourceUnavailableError):
                self._memory.forget(source)
                self._report()
            elif (entry := self._memory.get(source)) is not None:
                entry.retry_at = self._clock.monotonic() + pause
        return error

    def _usable(self, source: Source, clocks: Clocks) -> Entry | None:
        entry = self._memory.get(source)
        age = None if entry is None else self._memory.age(entry)
        return entry if age is not None and age <= clocks.gone_after else None

    def _report(self, evicted: int = 0) -> None:
        self._metrics.cache_size(entries=len(self._memory), size=self._memory.size, evicted=evicted)


def _shortened(reading: Reading, fetched_at: float) -> Reading:
    """Return `reading` with the end that its owner gives it, if that comes first."""
    max_age = reading.facts.max_age
    if max_age is None:
        return reading
    end = fetched_at + max(max_age, _YOUNGEST)
    return replace(reading, not_after=end if reading.not_after is None else min(end, reading.not_after))
