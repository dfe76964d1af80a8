"""Accept connections on one socket, as many at once as there are places; the rest waits in the kernel."""

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Final

from broker.logs import EventLogger
from broker.peer_address import parse_address
from broker.web.listening.connection import Place
from broker.web.listening.pace import Pace

_LOG: Final = EventLogger("broker.listener")
# Enough to keep the processor busy while clients far away take their time; more would only make each of them later.
_AT_ONCE: Final = 64
_STUCK_SECONDS: Final = 0.1
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
# How often it is looked for a connection that makes room, while there is no place.
_LOOK_SECONDS: Final = 0.25
# These end one connection, which was reset before it could be accepted, and say nothing of the next one.
_LOST_BEFORE_ACCEPT: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN})

Admit = Callable[[socket.socket, str, Place], Coroutine[None, None, None]]


class Acceptor:
    """Take each connection, and hand it over with its place and the address of its peer."""

    def __init__(
        self, *, sock: socket.socket, max_connections: int, admit: Admit, make_room: Callable[[], None] = lambda: None
    ) -> None:
        """Keep everything; nothing is accepted before `start`.

        Args:
            sock: A listening, non-blocking socket; it is closed by `close`.
            max_connections: Open at once; more wait in the kernel.
            admit: Called in a task with each connection, its peer's address and its place. It owns both from then on:
                the place is to be given back when the connection is closed.
            make_room: Called while there is no place and somebody waits for one.

        """
        self._sock = sock
        self._admit = admit
        self._make_room = make_room
        self._places = asyncio.Semaphore(max_connections)
        self._pace = Pace(at_once=_AT_ONCE, stuck_seconds=_STUCK_SECONDS)
        self._accepting: asyncio.Task[None] | None = None
        self._admissions: set[asyncio.Task[None]] = set()
        self._open = 0

    @property
    def connections(self) -> int:
        """Return how many connections are open, those that are being admitted included."""
        return self._open

    @property
    def admissions(self) -> frozenset[asyncio.Task[None]]:
        """Return the tasks of the connections that are being admitted."""
        return frozenset(self._admissions)

    def start(self) -> None:
        """Begin to accept."""
        self._accepting = asyncio.get_running_loop().create_task(self._accept_forever())

    async def close(self, *, admit_waiting: bool = False) -> None:
        """Stop accepting and close the socket; connections stay open, and admissions go on.

        Who still waits in the kernel is reset, or admitted if `admit_waiting`, as far as there are places.
        """
        if self._accepting is not None:
            self._accepting.cancel()
            with suppress(asyncio.CancelledError):
                await self._accepting
            self._accepting = None
        with suppress(OSError):
            while admit_waiting and not self._places.locked():
                connection, peer = self._sock.accept()
                await self._places.acquire()
                self._begin(connection, peer)
        self._sock.close()

    async def cancel(self) -> None:
        """End what is still being admitted."""
        for task in self._admissions:
            task.cancel()
        await asyncio.gather(*self._admissions, return_exceptions=True)

    async def _accept_forever(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            await self._pace.wait()
            await self._take_place()
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
                self._begin(connection, peer)

    def _begin(self, connection: socket.socket, peer: object) -> None:
        connection.setblocking(False)
        self._open += 1
        turn = self._pace.take()
        task = asyncio.get_running_loop().create_task(self._admit(connection, _address_of(peer), Place(self._leave)))
        self._admissions.add(task)
        task.add_done_callback(self._admissions.discard)
        task.add_done_callback(lambda _task: self._pace.end(turn))

    async def _take_place(self) -> None:
        if self._places.locked():
            # Nobody has to make room before somebody waits.
            await _readable(self._sock)
        while self._places.locked():
            self._make_room()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._places.acquire()
                    return
        await self._places.acquire()

    async def _accept(self) -> tuple[socket.socket, object]:
        """Return the next connection.

        `sock_accept` of the event loops loses one when it is cancelled just after it has accepted. Here nothing is
        awaited from then on, so that a listener that stops answers everybody whom it has taken.
        """
        while True:
            try:
                return self._sock.accept()
            except BlockingIOError:
                await _readable(self._sock)

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
        return str(parse_address(peer[0]))
    except ValueError:
        return ""
