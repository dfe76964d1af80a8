"""The operations listener's connections: as many as there are places; the rest waits in the kernel."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from broker.web.listening.binding import bind
from broker.web.listening.http_connection import HttpConnections
from broker.web.listening.plain_listener import PlainListener

PLACES = 2
MARKER = "lf_pat_marker"


@asynccontextmanager
async def listening(*, idle_seconds: float = 30.0) -> AsyncIterator[int]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="here")

    async def fail(request: web.Request) -> web.Response:
        raise {"/bug": ValueError, "/slow": TimeoutError}[request.path](MARKER)

    application = web.Application()
    application.router.add_routes([web.get("/", answer), web.get("/bug", fail), web.get("/slow", fail)])
    runner = web.AppRunner(application, shutdown_timeout=0.5)
    await runner.setup()
    sock = bind("127.0.0.1", 0)
    port = int(sock.getsockname()[1])
    connections = HttpConnections(runner=runner, idle_seconds=idle_seconds)
    listener = PlainListener(protocol=connections, sock=sock, max_connections=PLACES)
    await listener.start()
    try:
        yield port
    finally:
        await listener.stop()
        await runner.cleanup()


class Client:
    """One connection, kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, port: int) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self) -> str:
        self.writer.write(b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n")
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        return (await self.reader.readexactly(4)).decode()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no connection give way to another one."""
    monkeypatch.setattr("broker.web.listening.plain_listener._IDLE_SECONDS", 600.0)


async def test_a_connection_over_the_bound_waits_until_another_one_ends(patient: None) -> None:
    async with listening() as port:
        first, second = [await Client.of(port) for _ in range(PLACES)]
        assert [await first.ask(), await second.ask()] == ["here", "here"]
        # The kernel takes it, and the broker does not.
        third = await Client.of(port)
        waiting = asyncio.create_task(third.ask())
        assert await second.ask() == "here"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.2)
        await first.close()
        async with asyncio.timeout(30):
            assert await waiting == "here"
        for client in (second, third):
            await client.close()


async def test_places_that_are_held_by_idle_connections_are_free_again_soon(patient: None) -> None:
    async with listening(idle_seconds=0.2) as port:
        silent = [await Client.of(port) for _ in range(PLACES)]
        late = await Client.of(port)
        async with asyncio.timeout(30):
            assert await late.ask() == "here"
        assert [await client.reader.read() for client in silent] == [b"", b""]
        for client in (*silent, late):
            await client.close()


async def test_connections_that_ask_nothing_give_way_to_a_probe_at_once() -> None:
    async with listening(idle_seconds=600) as port:
        silent = [await Client.of(port) for _ in range(PLACES)]
        for client in silent:
            client.writer.write(b"GET /livez HTTP/1.1\r\nHo")
        probe = await Client.of(port)
        async with asyncio.timeout(30):
            assert await probe.ask() == "here"
        for client in (*silent, probe):
            await client.close()


async def test_a_connection_that_is_reset_gives_its_place_back() -> None:
    async with listening() as port:
        for _ in range(3 * PLACES):
            client = await Client.of(port)
            client.writer.transport.abort()
        late = await Client.of(port)
        async with asyncio.timeout(30):
            assert await late.ask() == "here"
        await late.close()


@pytest.mark.parametrize(("path", "said"), [("/bug", "error=ValueError"), ("/slow", "bug request=")])
async def test_what_no_middleware_catches_is_a_problem_and_a_line_without_its_text(
    path: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with listening() as port, asyncio.timeout(30):
        client = await Client.of(port)
        client.writer.write(f"GET {path} HTTP/1.1\r\nHost: broker\r\n\r\n".encode())
        head, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
        await client.close()
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"Content-Type: application/problem+json" in head
    assert json.loads(body)["code"] == "internal"
    assert MARKER not in (head + body).decode() + caplog.text
    assert [record.getMessage().partition(" request=")[0] for record in caplog.records] == ["bug"]
    assert said in caplog.text
