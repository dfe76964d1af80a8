"""Which of a store's addresses is asked: one at a time, another when it fails, the first again when that is steady."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

from broker.clock import Clock
from broker.logs import EventLogger
from broker.providers.vault.flight import SingleFlight
from broker.trace_context import untraced

_LOG: Final = EventLogger("broker.providers.vault")


class Health(Enum):
    """What an address says of itself."""

    ACTIVE = "active"
    STANDBY = "standby"
    DOWN = "down"


Probe = Callable[[str], Awaitable[Health]]
Proof = Callable[[str], Awaitable[bool]]


class AddressBook:
    """Keep to one address as long as it serves."""

    def __init__(
        self,
        *,
        addresses: Sequence[str],
        probe: Probe,
        serves: Proof,
        clock: Clock,
        probe_seconds: float,
        return_seconds: float,
    ) -> None:
        """Begin with the first of `addresses` that is active, which is found at the first request.

        `probe` asks an address for its health, and `serves` for more than that, before it is gone back to.
        """
        self._serves = serves
        self._addresses = tuple(addresses)
        self._probe = probe
        self._clock = clock
        self._probe_seconds = probe_seconds
        self._return_seconds = return_seconds
        self._flights = SingleFlight()
        self._current = self._addresses[0]
        self._searched = float("-inf")
        self._way_back: asyncio.Task[None] | None = None
        self._chosen = len(self._addresses) == 1

    async def current(self) -> str:
        """Return the address to ask now."""
        if not self._chosen:
            await self._flights.run("search", lambda: self._search(failed=None))
        return self._current

    async def leave(self, address: str) -> str | None:
        """Return where to go on after `address` has failed; None when nowhere is better.

        All addresses are asked for their health together, once however many requests failed, and no more often
        than the time between two probes.
        """
        if self._current == address and self._may_search():
            await self._flights.run("search", lambda: self._search(failed=address))
        return self._current if self._current != address else None

    async def reconsider(self, address: str) -> str | None:
        """Return a better address than `address`, which is a standby or slow; None when there is none.

        As `leave`, but `address` is asked too, and stays the current one when it is the best.
        """
        if self._current == address and self._may_search():
            await self._flights.run("search", lambda: self._search(failed=None))
        return self._current if self._current != address else None

    def listed(self, location: str) -> str | None:
        """Return the configured address that an absolute `location` points to; None for anywhere else."""
        wanted = _origin(location)
        return next((address for address in self._addresses if wanted and _origin(address) == wanted), None)

    async def aclose(self) -> None:
        """End what is under way."""
        await self._flights.aclose()
        task, self._way_back = self._way_back, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def _may_search(self) -> bool:
        several = len(self._addresses) > 1
        return several and self._clock.monotonic() - self._searched >= self._probe_seconds

    async def _search(self, *, failed: str | None) -> None:
        asked = [address for address in self._addresses if address != failed]
        found = await asyncio.gather(*(self._probe(address) for address in asked))
        if self._chosen:
            # Moving to and fro would cost a login each time, where the addresses are stores of their own.
            self._searched = self._clock.monotonic()
        self._chosen = True
        for wanted in (Health.ACTIVE, Health.STANDBY):
            for address, health in zip(asked, found, strict=True):
                if health is wanted:
                    self._use(address)
                    return

    def _use(self, address: str) -> None:
        if address == self._current:
            return
        place = self._addresses.index(address) + 1
        _LOG.warning("store_address_changed", place=place, of=len(self._addresses))
        self._current = address
        if place > 1 and self._way_back is None:
            self._way_back = asyncio.create_task(self._return(), context=untraced())

    async def _return(self) -> None:
        first = self._addresses[0]
        steady_since: float | None = None
        while self._current != first:
            await asyncio.sleep(self._probe_seconds)
            if await self._probe(first) is not Health.ACTIVE:
                steady_since = None
                continue
            now = self._clock.monotonic()
            steady_since = now if steady_since is None else steady_since
            if now - steady_since >= self._return_seconds:
                if await self._serves(first):
                    self._use(first)
                else:
                    # A node that can't write its audit log, say, is in the best of health.
                    steady_since = None
        self._way_back = None


def _origin(address: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(address)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname and "@" not in parts.netloc else None
