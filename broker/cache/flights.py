"""Reads under way: one for each source at a time, and whoever asks meanwhile waits for it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from broker.cache.remembered import Entry
from broker.errors import FetchError, SourceUnavailableError
from broker.reference import Source

_CLOSED: Final = "the broker is shutting down"


class Flight:
    """One running read. It ends with an entry or with what the source said, and never by a waiter's end."""

    __slots__ = ("_ended", "_outcome", "_waiting", "task")

    def __init__(self) -> None:
        """Begin with nobody who waits."""
        self.task: asyncio.Task[None]
        self._ended = False
        self._outcome: Entry | Exception | None = None
        self._waiting: list[asyncio.Future[None]] = []

    async def landed(self) -> Entry:
        """Return what the read gave, when it has ended.

        Raises:
            FetchError: What it met, for each waiter without the others' traceback.

        """
        if not self._ended:
            # A future for each: one that gives up takes nothing from the others.
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        outcome = self._outcome
        if isinstance(outcome, Entry):
            return outcome
        if outcome is None or isinstance(outcome, FetchError):
            raise (outcome or SourceUnavailableError(_CLOSED)).with_traceback(None)
        raise outcome

    def end(self, outcome: Entry | Exception | None) -> None:
        """Give `outcome` to everybody who waits; None when the read was given up."""
        if not self._ended:
            self._ended, self._outcome = True, outcome
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()


Read = Callable[[Flight], Awaitable[Entry | FetchError]]


class Flights:
    """Run reads in tasks of their own, which no waiter's end ends."""

    def __init__(self) -> None:
        """Start with nothing under way."""
        self._current: dict[Source, Flight] = {}
        # Those that were forgotten too: they run on, and bring nothing back.
        self._running: set[Flight] = set()
        self._closed = False

    def find(self, source: Source) -> Flight | None:
        """Return the read of `source` that is under way."""
        return self._current.get(source)

    def sources(self) -> Iterable[Source]:
        """Return what is being read now."""
        return tuple(self._current)

    def begin(self, source: Source, read: Read) -> Flight:
        """Begin to read `source`.

        Raises:
            SourceUnavailableError: The broker is shutting down.

        """
        if self._closed:
            raise SourceUnavailableError(_CLOSED)
        flight = Flight()
        flight.task = asyncio.create_task(self._run(source, flight, read))
        self._current[source] = flight
        self._running.add(flight)
        return flight

    def forget(self, source: Source) -> None:
        """Let the read of `source` that is under way bring nothing back, and the next one who asks begin another."""
        self._current.pop(source, None)

    def clear(self) -> None:
        """Let no read that is under way bring anything back."""
        self._current.clear()

    async def aclose(self) -> None:
        """End every read; a second call does nothing."""
        self._closed = True
        flights = tuple(self._running)
        for flight in flights:
            flight.task.cancel()
        if flights:
            await asyncio.wait({flight.task for flight in flights})
        for flight in flights:
            # A task that was cancelled before its first step has told nobody.
            flight.end(None)
        self._running.clear()
        self._current.clear()

    async def _run(self, source: Source, flight: Flight, read: Read) -> None:
        outcome: Entry | Exception | None = None
        try:
            outcome = await read(flight)
        except Exception as error:  # noqa: BLE001  A defect too is for those who wait, and there may be nobody.
            outcome = error
        finally:
            self._running.discard(flight)
            if self._current.get(source) is flight:
                del self._current[source]
            flight.end(outcome)
