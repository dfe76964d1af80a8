"""The agents' listener: an accept loop of our own, so that every failed handshake has a name.

aiohttp's sites hand the socket to the event loop, which swallows the error of a handshake. Here each accepted
socket is handed over by `connect_accepted_socket`, which raises it, and the TLS context is asked for anew.
"""

import asyncio
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from broker.logs import EventLogger, error_fields
from broker.web.listening.accepting import Acceptor
from broker.web.listening.connection import AgentConnection, Crowd, Place, SilentConnections
from broker.web.listening.holders import Holders
from broker.web.tls.handshake import HandshakeOutcome, handshake_failure_reason

_LOG: Final = EventLogger("broker.listener")
# What is read of a connection at once: two records of TLS, whose size the protocol bounds.
_BUFFER_BYTES: Final = 32 * 1024
# Of answers that an agent has not taken. By itself the kernel keeps up to 4 MiB for each connection, and a control
# group of version 2 counts it.
_KERNEL_BYTES: Final = 128 * 1024
# What a client may still need, when the broker stops, to end a handshake that it has begun and to ask.
_LAST_WORDS: Final = 1.0
_IDLE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeResult:
    """How one handshake ended.

    Attributes:
        outcome: "ok", or why it failed: a value of `HandshakeOutcome`.
        address: The peer's address without its port, empty if it was gone before it was asked.

    """

    outcome: str
    address: str


class TlsListener:
    """Accept agents on one socket."""

    def __init__(
        self,
        *,
        protocol: Callable[[], asyncio.Protocol],
        sock: socket.socket,
        context: Callable[[], ssl.SSLContext],
        on_handshake: Callable[[HandshakeResult], Awaitable[None] | None],
        name_of: Callable[[ssl.SSLObject], str],
        gave_way: Callable[[], None] = lambda: None,
        max_connections: int = 1024,
        handshake_seconds: float = 5.0,
    ) -> None:
        """Keep everything; nothing is accepted before `start`.

        Args:
            protocol: Makes what answers one connection, such as the server of a runner that has been set up.
            sock: What `bind` returned; the listener closes it.
            context: Asked at each connection, so that a new certificate counts from the next one on.
            on_handshake: Told of each handshake, good or bad. The connection's place is kept until it returns.
            name_of: Tells the name of the identity behind a handshake; empty when it has none.
            gave_way: Told of each idle connection that was ended to make room for another.
            max_connections: Open at once, those in a handshake included; more wait in the kernel. One identity has
                seven eighths at most of what others leave.
            handshake_seconds: The time for a handshake, and for a TLS shutdown.

        """
        self._protocol = protocol
        holders = Holders(places=max_connections, idle_seconds=_IDLE_SECONDS, gave_way=gave_way)
        self._acceptor = Acceptor(
            sock=sock, max_connections=max_connections, admit=self._admit, make_room=holders.make_room
        )
        self._context = context
        self._on_handshake = on_handshake
        self._seconds = handshake_seconds
        self._silent = SilentConnections()
        self._crowd = Crowd(silent=self._silent, holders=holders, name_of=name_of)

    @property
    def connections(self) -> int:
        """Return how many connections are open, those in a handshake included."""
        return self._acceptor.connections

    async def start(self) -> None:
        """Begin to accept."""
        # asyncio has no setting for it, and gives each connection 256 KiB for as long as it is open.
        SSLProtocol.max_size = _BUFFER_BYTES
        self._acceptor.start()

    async def stop(self) -> None:
        """Stop accepting and close the socket; the runner's own `cleanup` ends the open connections."""
        await self._acceptor.close(admit_waiting=True)
        # A client whose handshake is nearly done may have sent its request with it, and whoever has connected must
        # be answered: the runner's `cleanup` closes every connection that has not asked yet.
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_LAST_WORDS, self._seconds)):
                if self._acceptor.admissions:
                    await asyncio.wait(self._acceptor.admissions)
                await self._silent.nobody.wait()
        await self._acceptor.cancel()

    async def _admit(self, connection: socket.socket, address: str, place: Place) -> None:
        try:
            outcome = await self._shake_hands(connection, place)
        except BaseException:
            place.leave()
            raise
        try:
            await self._report(HandshakeResult(outcome=outcome, address=address))
        finally:
            if outcome is not HandshakeOutcome.OK:
                place.leave()

    async def _shake_hands(self, connection: socket.socket, place: Place) -> HandshakeOutcome:
        try:
            # The event loop owns the socket from the call of `connect_accepted_socket` on, and only from there.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
            context = self._context()
            # Made here, because uvloop returns a protocol of its own.
            placed = AgentConnection(inner=self._protocol(), place=place, connection=connection, crowd=self._crowd)
        except Exception as error:  # noqa: BLE001  One connection fails, whatever it is, and the listener goes on.
            connection.close()
            _LOG.error("connection_failed", **error_fields(error))
            return HandshakeOutcome.OTHER
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: placed,
                connection,
                ssl=context,
                ssl_handshake_timeout=self._seconds,
                ssl_shutdown_timeout=self._seconds,
            )
        except OSError as error:
            return handshake_failure_reason(error)
        except Exception as error:  # noqa: BLE001  As above.
            connection.close()
            _LOG.error("connection_failed", **error_fields(error))
            return HandshakeOutcome.OTHER
        return placed.refused or HandshakeOutcome.OK

    async def _report(self, result: HandshakeResult) -> None:
        try:
            waiting = self._on_handshake(result)
            if waiting is not None:
                await waiting
        except Exception as error:  # noqa: BLE001  Whoever listens must not be able to stop the listener.
            _LOG.error("handshake_not_reported", outcome=result.outcome, **error_fields(error))
