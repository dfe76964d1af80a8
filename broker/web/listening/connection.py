"""What the listener knows of one connection: its place among the bounded ones, and whether it has asked yet."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress


class Place:
    """One of the bounded places, given back exactly once."""

    __slots__ = ("_give_back", "_given_back")

    def __init__(self, give_back: Callable[[], None]) -> None:
        """Take the place; `give_back` is called when it is free again."""
        self._give_back = give_back
        self._given_back = False

    def leave(self) -> None:
        """Give it back; a second call does nothing."""
        if not self._given_back:
            self._given_back = True
            self._give_back()


class SilentConnections:
    """The connections on which nothing has been asked yet."""

    __slots__ = ("_connections", "nobody")

    def __init__(self) -> None:
        """Begin with nobody."""
        self._connections: set[AgentConnection] = set()
        self.nobody = asyncio.Event()
        self.nobody.set()

    def add(self, connection: "AgentConnection") -> None:
        """Count a connection that has not asked yet."""
        self._connections.add(connection)
        self.nobody.clear()

    def discard(self, connection: "AgentConnection") -> None:
        """Count it no more: it has asked, or is gone."""
        self._connections.discard(connection)
        if not self._connections:
            self.nobody.set()


class PlacedConnection(asyncio.Protocol):
    """Pass everything on to aiohttp's protocol, and give the place back when the connection is lost."""

    __slots__ = ("_inner", "_place")

    def __init__(self, *, inner: asyncio.Protocol, place: Place) -> None:
        """Stand before `inner`, aiohttp's protocol of the connection that has `place`."""
        self._inner = inner
        self._place = place

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass on what has been read."""
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on that nothing more comes."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the peer reads slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that it has caught up."""
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on the end, and give the place back."""
        try:
            self._inner.connection_lost(exc)
        finally:
            self._place.leave()


class AgentConnection(PlacedConnection):
    """A connection of an agent: over TLS, counted among the silent ones, and never a resumed session.

    A resumed session is cut off before aiohttp hears of it, since nobody has checked its certificate. Without
    tickets OpenSSL still keeps the sessions of TLS 1.2 by their ids, and Python has no switch for that.
    Cutting off without a TLS shutdown makes OpenSSL forget the session, so the client's next try is a full
    handshake.
    """

    __slots__ = ("_connection", "_silent", "resumed")

    def __init__(
        self, *, inner: asyncio.Protocol, place: Place, connection: socket.socket, silent: SilentConnections
    ) -> None:
        """Stand before `inner`, aiohttp's protocol of `connection`."""
        super().__init__(inner=inner, place=place)
        self._silent = silent
        self._connection = connection
        self.resumed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless the session is a resumed one."""
        self.resumed = bool(transport.get_extra_info("ssl_object").session_reused)
        if not self.resumed:
            self._silent.add(self)
            super().connection_made(transport)
        else:
            # `transport.abort` is not enough, uvloop leaves the connection open. The client may be gone already.
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def data_received(self, data: bytes) -> None:
        """Pass on what has been read."""
        if not self.resumed:
            super().data_received(data)
            self._silent.discard(self)

    def eof_received(self) -> bool | None:
        """Pass on that nothing more comes."""
        return None if self.resumed else super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on the end, and give the place back."""
        self._silent.discard(self)
        if self.resumed:
            self._place.leave()
        else:
            super().connection_lost(exc)
