"""The turn of one request: a connection of its address that is free, and what the budget lets through."""

import asyncio
from collections.abc import Iterable

from broker.providers.base import UpstreamObserver
from broker.providers.vault.exchange.failures import NoTurnError
from broker.providers.vault.limits.budget import Budget


class Turns:
    """Give turns at the addresses of one store."""

    def __init__(
        self, *, budget: Budget, addresses: Iterable[str], max_connections: int, observer: UpstreamObserver
    ) -> None:
        """Let `max_connections` requests run at each of `addresses`."""
        self._budget = budget
        # One connection is left for logins and renewals, however many reads hang; reads that hang at one address
        # keep nobody from another.
        self._slots = {address: asyncio.Semaphore(max(1, max_connections - 1)) for address in addresses}
        self._observer = observer
        self._throttled = 0
        self._count()

    async def take(self, address: str, *, reserved: bool, seconds: float) -> None:
        """Return when a request may be sent, which ends with `give_back`; `reserved` ones need no free connection.

        Raises:
            NoTurnError: That took longer than `seconds`.

        """
        slot = None if reserved else self._slots[address]
        # Nearly every request finds both at once, and then no clock has to run.
        if (slot is None or not slot.locked()) and self._budget.take_at_once(reserved=reserved):
            if slot is not None:
                await slot.acquire()
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wait(slot, reserved=reserved)
        except TimeoutError:
            self.refused()
            message = "more reads wait for the store than the broker's budget lets through in time"
            raise NoTurnError(message, retry_after=1.0) from None
        self._count()

    def give_back(self, address: str, *, reserved: bool) -> None:
        """Let the next one have the connection."""
        if not reserved:
            self._slots[address].release()

    def refused(self) -> None:
        """Count a request that is not sent because too many are."""
        self._count(refused=1)

    async def _wait(self, slot: asyncio.Semaphore | None, *, reserved: bool) -> None:
        if slot is None:
            await self._budget.take(reserved=reserved)
            return
        await slot.acquire()
        try:
            await self._budget.take(reserved=reserved)
        except BaseException:
            slot.release()
            raise

    def _count(self, *, refused: int = 0) -> None:
        throttled, self._throttled = self._budget.throttled - self._throttled, self._budget.throttled
        rate = self._budget.per_second
        self._observer.upstream_budget(provider="vault", per_second=rate, throttled=throttled, refused=refused)
