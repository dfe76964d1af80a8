"""The agents' listener: an accept loop of our own, so that every failed handshake has a name.

aiohttp's sites hand the socket to the event loop, which swallows the error of a handshake. Here each accepted
socket is handed over by `connect_accepted_socket`, which raises it. Connections are bounded, and the TLS
context is asked for anew for each of them.
"""

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from broker.finding import FoundError, found
from broker.logs import EventLogger, error_fields
from broker.web.connection import Place, PlacedConnection, SilentConnections
from broker.web.tls import HandshakeOutcome, handshake_failure_reason

_LOG: Final = EventLogger("broker.listener")
_BACKLOG: Final = 1024
_LAST_PORT: Final = 65_535
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
# What a client may still need, when the broker stops, to end a handshake that it has begun and to ask.
_LAST_WORDS: Final = 1.0
# These end one connection, which was reset before it could be accepted, and say nothing of the next one.
_LOST_BEFORE_ACCEPT: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeResult:
    """How one handshake ended.

    Attributes:
        outcome: "ok", or why it failed: a value of `HandshakeOutcome`.
        address: The peer's address without its port, empty if it was gone before it was asked.

    """

    outcome: str
    address: str


def bind(host: str, port: int) -> socket.socket:
    """Return a listening, non-blocking socket; port 0 takes a free one.

    Raises:
        FoundError: The address is none of this machine's, or the port is taken or not allowed.

    """
    if not 0 <= port <= _LAST_PORT:
        # The resolver would silently take what is left of it in 16 bits.
        where, why = f"port {port}", f"is not between 0 and {_LAST_PORT}"
        raise found(where, "port_invalid", why, "choose one between them")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        where, why = f"host {host!r}", "is no address and no name that this machine knows"
        raise found(where, "host_unknown", why, "write an address, or mend the look-up of names") from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Two sockets may be bound to one port until one of them listens, so the clash is found here.
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _why_not_bound(host, port, error) from None
    return sock


def _why_not_bound(host: str, port: int, error: OSError) -> FoundError:
    where = f"port {port} on {host}"
    match error:
        case OSError(errno=errno.EADDRINUSE):
            return found(where, "port_taken", "another process listens there", "stop it or choose another port")
        case OSError(errno=errno.EADDRNOTAVAIL):
            return found(f"host {host!r}", "host_foreign", "is no address of this machine", "choose one of its own")
        case OSError(errno=errno.EACCES | errno.EPERM):
            return found(where, "port_forbidden", "not allowed for this user", "choose a port from 1024 up")
        case _:
            return found(where, "port_unusable", error.strerror or "can't be bound", "choose another port")


class TlsListener:
    """Accept agents on one socket, for a runner that has been set up."""

    def __init__(
        self,
        *,
        runner: "web.AppRunner | web.ServerRunner",
        sock: socket.socket,
        context: Callable[[], ssl.SSLContext],
        on_handshake: Callable[[HandshakeResult], Awaitable[None] | None],
        max_connections: int = 1024,
        handshake_seconds: float = 5.0,
    ) -> None:
        """Keep everything; nothing is accepted before `start`.

        Args:
            runner: Whose server answers the connections.
            sock: What `bind` returned; the listener closes it.
            context: Asked at each connection, so that a new certificate counts from the next one on.
            on_handshake: Told of each handshake, good or bad. The connection's place is kept until it returns.
            max_connections: Open at once, those in a handshake included; more wait in the kernel.
            handshake_seconds: The time for a handshake, and for a TLS shutdown.

        """
        self._runner = runner
        self._sock = sock
        self._context = context
        self._on_handshake = on_handshake
        self._places = asyncio.Semaphore(max_connections)
        self._seconds = handshake_seconds
        self._accepting: asyncio.Task[None] | None = None
        self._handshakes: set[asyncio.Task[None]] = set()
        self._silent = SilentConnections()
        self._open = 0

    @property
    def connections(self) -> int:
        """Return how many connections are open, those in a handshake included."""
        return self._open

    async def start(self) -> None:
        """Begin to accept."""
        self._accepting = asyncio.get_running_loop().create_task(self._accept_forever())

    async def stop(self) -> None:
        """Stop accepting and close the socket; the runner's own `cleanup` ends the open connections."""
        if self._accepting is not None:
            self._accepting.cancel()
            with suppress(asyncio.CancelledError):
                await self._accepting
            self._accepting = None
        self._sock.close()
        # A client whose handshake is nearly done may have sent its request with it, and whoever has connected must
        # be answered: the runner's `cleanup` closes every connection that has not asked yet.
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_LAST_WORDS, self._seconds)):
                if self._handshakes:
                    await asyncio.wait(self._handshakes)
                await self._silent.nobody.wait()
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    async def _accept_forever(self) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        while True:
            await self._places.acquire()
            try:
                connection, peer = await self._accept()
            except OSError as error:
                self._places.release()
                if error.errno in _LOST_BEFORE_ACCEPT:
                    continue
                # Out of descriptors or memory: others must close first, and trying at once would only burn time.
                _LOG.warning("accept_failed", reason=error.strerror, next_try_seconds=round(pause, 2))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except BaseException:
                self._places.release()
                raise
            else:
                pause = _FIRST_PAUSE
                task = loop.create_task(self._admit(connection, _address_of(peer)))
                self._handshakes.add(task)
                task.add_done_callback(self._handshakes.discard)

    async def _accept(self) -> tuple[socket.socket, object]:
        """Return the next connection.

        `sock_accept` of the event loops loses one when it is cancelled just after it has accepted. Here nothing is
        awaited from then on, so that a listener that stops answers everybody whom it has taken.
        """
        while True:
            try:
                connection, peer = self._sock.accept()
            except BlockingIOError:
                await _readable(self._sock)
            else:
                connection.setblocking(False)
                return connection, peer

    async def _admit(self, connection: socket.socket, address: str) -> None:
        place = Place(self._leave)
        self._open += 1
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
        server = self._runner.server
        if server is None:
            # The runner has been cleaned up before this listener was stopped.
            connection.close()
            return HandshakeOutcome.RESET
        try:
            # The event loop owns the socket from the call of `connect_accepted_socket` on, and only from there.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = self._context()
        except Exception as error:  # noqa: BLE001  One connection fails, whatever it is, and the listener goes on.
            connection.close()
            _LOG.error("connection_failed", **error_fields(error))
            return HandshakeOutcome.OTHER
        # Made here, because uvloop returns a protocol of its own.
        placed = PlacedConnection(inner=server(), place=place, connection=connection, silent=self._silent)
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
        return HandshakeOutcome.RESUMED if placed.resumed else HandshakeOutcome.OK

    async def _report(self, result: HandshakeResult) -> None:
        try:
            waiting = self._on_handshake(result)
            if waiting is not None:
                await waiting
        except Exception as error:  # noqa: BLE001  Whoever listens must not be able to stop the listener.
            _LOG.error("handshake_not_reported", outcome=result.outcome, **error_fields(error))

    def _leave(self) -> None:
        self._open -= 1
        self._places.release()


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)


def _address_of(peer: object) -> str:
    if not isinstance(peer, tuple) or not peer:
        return ""
    try:
        address = ipaddress.ip_address(peer[0])
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
