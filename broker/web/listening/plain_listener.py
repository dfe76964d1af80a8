"""The operations listener: no TLS, and few connections, so that whoever is let near it can't use up the descriptors."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from broker.logs import EventLogger, error_fields
from broker.web.listening.accepting import Acceptor
from broker.web.listening.connection import Place, PlacedConnection
from broker.web.listening.holders import Holders

_LOG: Final = EventLogger("broker.operations")
# A probe and a scrape send their request with their first breath.
_IDLE_SECONDS: Final = 0.25


class PlainListener:
    """Accept probes, scrapes and webhooks on one socket."""

    def __init__(self, *, protocol: Callable[[], asyncio.Protocol], sock: socket.socket, max_connections: int) -> None:
        """Keep everything; nothing is accepted before `start`.

        Args:
            protocol: Makes what answers one connection.
            sock: What `bind` returned; the listener closes it.
            max_connections: Open at once; more wait in the kernel.

        """
        self._protocol = protocol
        # Nobody has a name here, so that everybody shares everything, and what is idle gives way.
        self._holders = Holders(places=None, idle_seconds=_IDLE_SECONDS)
        self._acceptor = Acceptor(
            sock=sock, max_connections=max_connections, admit=self._admit, make_room=self._holders.make_room
        )

    async def start(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    async def stop(self) -> None:
        """Stop accepting and close the socket; the runner's own `cleanup` ends the open connections."""
        await self._acceptor.close()
        await self._acceptor.cancel()

    async def _admit(self, connection: socket.socket, _address: str, place: Place) -> None:
        try:
            placed = PlacedConnection(inner=self._protocol(), place=place, connection=connection, holders=self._holders)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: placed, connection)
        except Exception as error:  # noqa: BLE001  One connection fails, whatever it is, and the listener goes on.
            place.leave()
            connection.close()
            _LOG.error("connection_failed", **error_fields(error))
