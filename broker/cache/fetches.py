"""One read of a source: how long it may take, and what becomes of what the source says."""

import asyncio
import math
import random
from dataclasses import replace
from typing import Final

from broker.cache.flights import Flight, Flights
from broker.cache.memory import Memory
from broker.cache.refusals import Refusals
from broker.cache.remembered import Clocks, Entry, Fetch
from broker.clock import Clock
from broker.errors import FetchError, SourceUnavailableError
from broker.metrics import Metrics
from broker.reference import Source
from broker.secret import Reading

# A refresh may start in the last tenth of the fresh time, at a moment drawn for each entry, so that what
# was read together at the start of a thousand agents is not read together again.
_EARLY: Final = 0.1
# Nobody can have a source read more often than this by what is said about it.
_YOUNGEST: Final = 1.0


class Fetches:
    """Read sources, and remember what they gave or said unless it was forgotten meanwhile."""

    def __init__(
        self,
        *,
        memory: Memory,
        refusals: Refusals,
        flights: Flights,
        clock: Clock,
        metrics: Metrics,
        seconds: float,
    ) -> None:
        """Keep the collaborators; a read that takes longer than `seconds` has failed."""
        self._memory = memory
        self._refusals = refusals
        self._flights = flights
        self._clock = clock
        self._metrics = metrics
        self._seconds = seconds
        self._random = random.Random().random  # noqa: S311  A pause is no secret, and a draw from the system is a call.

    def begin(self, source: Source, fetch: Fetch, clocks: Clocks) -> Flight:
        """Begin to read `source` for somebody with `clocks`. Raises: SourceUnavailableError, as `Flights.begin`."""
        return self._flights.begin(source, lambda flight: self._fly(source, fetch, flight, clocks))

    async def _fly(self, source: Source, fetch: Fetch, flight: Flight, clocks: Clocks) -> Entry | FetchError:
        born, fetched_at = self._clock.monotonic(), self._clock.now()
        try:
            async with asyncio.timeout(self._seconds):
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
            self._memory.keep(source, entry)
        return entry

    def _failed(self, source: Source, flight: Flight, error: FetchError) -> FetchError:
        """Note what the source said: it can't answer, so wait, or it says no, so forget."""
        if self._flights.find(source) is flight:
            pause = self._refusals.keep(source, error)
            if not isinstance(error, SourceUnavailableError):
                self._memory.forget(source)
            elif (entry := self._memory.get(source)) is not None:
                entry.retry_at = self._clock.monotonic() + pause
        return error


def _shortened(reading: Reading, fetched_at: float) -> Reading:
    """Return `reading` with the end that its owner gives it, if that comes first."""
    max_age = reading.facts.max_age
    if max_age is None:
        return reading
    end = fetched_at + max(max_age, _YOUNGEST)
    return replace(reading, not_after=end if reading.not_after is None else min(end, reading.not_after))
