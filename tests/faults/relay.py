"""A relay in front of a real store, which counts every request and whose faults a test switches while it runs."""

import asyncio
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, Final

from tests.faults.asked import Asked
from tests.faults.record import SOURCE

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CHUNK: Final = 16_384
_DRIPS_A_SECOND: Final = 20
# Says nothing of a request: forward it.
Stand_in = Callable[[str], bytes | None]


class Relay:
    """Forward connections to a port of this machine, one HTTP request after the other.

    Attributes:
        asked: Every request, those included that the relay answers itself or lets die.
        fruitless: Every connection that came to no request: refused while the relay is closed, or given up in TLS.
        delay: Seconds that every part of an answer is late.
        rate: Bytes of an answer a second; 0 for as fast as they come.
        cut_after: Bytes of an answer after which the connection is reset.
        silent: Nothing passes in either direction, and no connection is ended.
        stand_in: Answers a request by its path, in the store's place.

    """

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self.fruitless: list[Asked] = []
        self.delay = 0.0
        self.rate = 0
        self.cut_after: int | None = None
        self.silent = False
        self.stand_in: Stand_in = lambda _path: None
        self.target = port
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    @property
    def address(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen: on a free port the first time, and on the same one later."""
        if not self.port:
            self._note_refusals()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def attempts(self) -> list[Asked]:
        """Return every try to ask the store, whatever became of it."""
        return sorted([*self.asked, *self.fruitless], key=lambda one: one.at)

    async def aclose(self) -> None:
        """Refuse new connections, and reset those that there are."""
        assert self._server is not None
        self._server.close()
        self.reset()
        await self._server.wait_closed()

    def heal(self) -> None:
        """Behave well again; connections that were frozen stay so."""
        self.delay, self.rate, self.cut_after, self.silent = 0.0, 0, None, False
        self.stand_in = lambda _path: None

    def reset(self) -> None:
        """Reset every connection."""
        for connection in list(self._connections):
            connection.reset()

    def freeze(self) -> int:
        """Let every connection that there is go dead without a word, as half-open ones are; return how many."""
        for connection in self._connections:
            connection.frozen = True
        return len(self._connections)

    def _note_refusals(self) -> None:
        # Nobody listens then, so it is seen where the broker, which runs in the same loop, opens its connections.
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def noted(sock: socket.socket, address: Any) -> None:
            try:
                await connect(sock, address)
            except OSError:
                if address[1] == self.port:
                    self._note_fruitless()
                raise

        loop.sock_connect = noted  # type: ignore[method-assign]  # The loop ends with the test.

    def _note_fruitless(self) -> None:
        self.fruitless.append(Asked(time.monotonic(), "CONNECT", ""))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._tls is not None:
            try:
                await writer.start_tls(self._tls)
            except OSError:
                self._note_fruitless()
                writer.close()
                return
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            await connection.run()
        except (OSError, asyncio.IncompleteReadError):
            # Either side has gone; the other is told below.
            pass
        finally:
            self._connections.discard(connection)
            connection.close()


class _Connection:
    """One connection from the broker, with the one to the store behind it."""

    def __init__(self, relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.frozen = False
        self._relay = relay
        self._reader = reader
        self._writer = writer
        self._store: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        store_reader, self._store = await asyncio.open_connection(
            "127.0.0.1", self._relay.target, local_addr=(SOURCE, 0)
        )
        ways = {
            asyncio.create_task(self._requests(self._store)),
            asyncio.create_task(self._answers(store_reader)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self, store: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await self._reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await self._reader.readexactly(int(length.group(1))) if length else b""
                method, path, _ = head.decode("latin-1").split(" ", 2)
                self._relay.asked.append(Asked(time.monotonic(), method, path))
                await self._held()
                answer = self._relay.stand_in(path)
                if answer is None:
                    store.write(head + body)
                    await store.drain()
                else:
                    await self._give(answer, 0)
        except (OSError, asyncio.IncompleteReadError):
            # The broker has ended the connection.
            return

    async def _answers(self, store: asyncio.StreamReader) -> None:
        sent = 0
        try:
            while data := await store.read(_CHUNK):
                await self._held()
                sent = await self._give(data, sent)
        except OSError:
            # The store has ended the connection.
            return

    async def _give(self, data: bytes, sent: int) -> int:
        await asyncio.sleep(self._relay.delay)
        cut = self._relay.cut_after
        if cut is not None and sent + len(data) > cut:
            self._writer.write(data[: cut - sent])
            await self._writer.drain()
            self.reset()
            raise ConnectionResetError
        for start in range(0, len(data), self._step(data)):
            self._writer.write(data[start : start + self._step(data)])
            await self._writer.drain()
            if self._relay.rate:
                await asyncio.sleep(self._step(data) / self._relay.rate)
        return sent + len(data)

    def _step(self, data: bytes) -> int:
        return max(1, self._relay.rate // _DRIPS_A_SECOND) if self._relay.rate else len(data)

    async def _held(self) -> None:
        while self.frozen or self._relay.silent:  # noqa: ASYNC110  A test switches it, at any moment.
            await asyncio.sleep(0.02)

    def reset(self) -> None:
        """End it with a reset, not with the polite words of TCP."""
        for writer in filter(None, (self._writer, self._store)):
            if not writer.is_closing():
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()

    def close(self) -> None:
        for writer in filter(None, (self._writer, self._store)):
            writer.close()


def http(body: bytes, *, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """Return an answer for `stand_in`."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
