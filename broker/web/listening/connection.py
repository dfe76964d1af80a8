"""What the listener knows of one connection: its place among the bounded ones, and whether it has asked yet."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from broker.web.listening.holders import Holders
from broker.web.tls.handshake import HandshakeOutcome


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What a connection has to know of all others.

    Attributes:
        silent: Those on which nothing has been asked yet.
        holders: Who holds how many.
        name_of: Tells the name of the identity at the other end; empty when it has none.

    """

    silent: SilentConnections
    holders: Holders
    name_of: Callable[[ssl.SSLObject], str]


@runtime_checkable
class Idling(Protocol):
    """A protocol that knows how long it has waited for a request."""

    @property
    def idle_seconds(self) -> float | None:
        """Return for how long it has waited; None while it answers one."""
        ...


class PlacedConnection(asyncio.Protocol):
    """Pass everything on to aiohttp's protocol, and give the place back when the connection is lost."""

    __slots__ = ("_connection", "_holder", "_holders", "_inner", "_place")

    def __init__(self, *, inner: asyncio.Protocol, place: Place, connection: socket.socket, holders: Holders) -> None:
        """Stand before `inner`, aiohttp's protocol of `connection`, which has `place`, and is told to `holders`."""
        self._inner = inner
        self._place = place
        self._connection = connection
        self._holders = holders
        self._holder = ""

    @property
    def idle_seconds(self) -> float | None:
        """Return for how long nothing has been asked; None while something is answered, or nobody knows."""
        return self._inner.idle_seconds if isinstance(self._inner, Idling) else None

    def cut(self) -> None:
        """End the connection, without a TLS shutdown."""
        # `transport.abort` is not enough, uvloop leaves the connection open. The client may be gone already.
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.enter("")
        self._inner.connection_made(transport)

    def enter(self, name: str) -> bool:
        """Count as one of `name`'s; return whether it may have one more."""
        self._holder = name
        return self._holders.enter(name, self)

    def leave(self) -> None:
        """Count no more, and give the place back."""
        self._holders.leave(self._holder, self)
        self._place.leave()

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
            self.leave()


class AgentConnection(PlacedConnection):
    """A connection of an agent: over TLS, one of its identity's share, and never a resumed session.

    A resumed session is cut off before aiohttp hears of it, since nobody has checked its certificate. Without
    tickets OpenSSL still keeps the sessions of TLS 1.2 by their ids, and Python has no switch for that.
    Cutting off without a TLS shutdown makes OpenSSL forget the session, so the client's next try is a full
    handshake. Whoever has its share already is cut off too.
    """

    __slots__ = ("_crowd", "refused")

    def __init__(self, *, inner: asyncio.Protocol, place: Place, connection: socket.socket, crowd: Crowd) -> None:
        """Stand before `inner`, aiohttp's protocol of `connection`."""
        super().__init__(inner=inner, place=place, connection=connection, holders=crowd.holders)
        self._crowd = crowd
        self.refused: HandshakeOutcome | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless the session is a resumed one or one too many."""
        peer = transport.get_extra_info("ssl_object")
        if peer.session_reused:
            self.refused = HandshakeOutcome.RESUMED
        elif not self.enter(self._crowd.name_of(peer)):
            self.refused = HandshakeOutcome.TOO_MANY
        if self.refused is None:
            self._crowd.silent.add(self)
            self._inner.connection_made(transport)
        else:
            self.cut()

    def data_received(self, data: bytes) -> None:
        """Pass on what has been read."""
        if self.refused is None:
            super().data_received(data)
            self._crowd.silent.discard(self)

    def eof_received(self) -> bool | None:
        """Pass on that nothing more comes."""
        return super().eof_received() if self.refused is None else None

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on the end, and give the place back."""
        self._crowd.silent.discard(self)
        if self.refused is None:
            super().connection_lost(exc)
        else:
            self.leave()
