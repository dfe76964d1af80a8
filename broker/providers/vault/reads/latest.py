"""Bring the broker to the store's latest state: a node that lags would say of a new secret that there is none."""

import asyncio
from typing import Final

from broker.clock import Clock
from broker.providers.vault.flight import SingleFlight
from broker.providers.vault.own_token.login import StoreLogin
from broker.providers.vault.transport.transport import StoreTransport

# However many secrets are absent, the store writes no more often for that.
_PAUSE_SECONDS: Final = 0.3


class LatestState:
    """Learn from a write how far the store is: only the leader writes, and later reads ask for no older a state."""

    def __init__(self, *, login: StoreLogin, transport: StoreTransport, clock: Clock) -> None:
        """Keep the collaborators."""
        self._login = login
        self._transport = transport
        self._clock = clock
        self._flights = SingleFlight()
        self._began = float("-inf")

    async def reach(self) -> bool:
        """Return whether reads from now on are answered from a state no older than this call.

        They are not where the store does not tell its states, or where the broker's token can't be renewed.

        Raises:
            SourceUnavailableError: The leader can't be asked.

        """
        asked = self._clock.monotonic()
        while self._transport.tells_states and self._login.can_renew:
            began, done = await self._flights.run("write", self._write)
            # One that had begun before says nothing of this call's moment.
            if began >= asked:
                return done
        return False

    async def aclose(self) -> None:
        """End what is under way."""
        await self._flights.aclose()

    async def _write(self) -> tuple[float, bool]:
        """Return when the write began, and whether it was done."""
        await asyncio.sleep(max(0.0, self._began + _PAUSE_SECONDS - self._clock.monotonic()))
        began = self._began = self._clock.monotonic()
        return began, await self._login.write()
