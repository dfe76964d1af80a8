"""A slow line between the nodes of a store: bytes pass unseen, and late."""

import asyncio
import time
from typing import Final

_CHUNK: Final = 65_536


class Lag:
    """Forward connections to a port of this machine, each byte `delay` seconds late and none out of order."""

    def __init__(self, target: int) -> None:
        self.delay = 0.0
        self.target = target
        self.port = 0
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, host, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            node_reader, node = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self._writers.add(node)
        try:
            await asyncio.gather(self._pump(reader, node, slow=True), self._pump(node_reader, writer, slow=False))
        finally:
            for end in (writer, node):
                self._writers.discard(end)
                end.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, slow: bool) -> None:
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = asyncio.create_task(self._take(source, line, slow=slow))
        try:
            while True:
                moment, data = await line.get()
                await asyncio.sleep(max(0.0, moment - time.monotonic()))
                if not data:
                    return
                sink.write(data)
                await sink.drain()
        except OSError:
            # One of the nodes has gone.
            return
        finally:
            arriving.cancel()
            sink.close()

    async def _take(
        self, source: asyncio.StreamReader, line: asyncio.Queue[tuple[float, bytes]], *, slow: bool
    ) -> None:
        data = b"x"
        while data:
            try:
                data = await source.read(_CHUNK)
            except OSError:
                data = b""
            line.put_nowait((time.monotonic() + (self.delay if slow else 0.0), data))
