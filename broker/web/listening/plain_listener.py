"""The operations listener: no TLS, and few connections, so that whoever is let near it can't use up the descriptors."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from broker.logs import EventLogger, error_fields
from broker.web.listening.accepting import Acceptor
from broker.web.listening.connection import Place, PlacedConnection

_LOG: Final = EventLogger("broker.operations")


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
        self._acceptor = Acceptor(sock=sock, max_connections=max_connections, admit=self._admit)

    async def start(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    async def stop(self) -> None:
        """Stop accepting and close the socket; the runner's own `cleanup` ends the open connections."""
        await self._acceptor.close()
        await self._acceptor.cancel()

    async def _admit(self, connection: socket.socket, _address: str, place: Place) -> None:
        try:
            placed = PlacedConnection(inner=self._protocol(), place=place)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: placed, connection)
        except Exception as error:  # noqa: BLE001  One connection fails, whatever it is, and the listener goes on.
            place.leave()
            connection.close()
            _LOG.error("connection_failed", **error_fields(error))
