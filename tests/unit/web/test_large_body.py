"""Large answers on real connections: whole, no faster than they are taken, and their bytes free again afterwards."""

import asyncio
import gc
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
from aiohttp import web

from broker.limits.in_flight import Claim, InFlight
from broker.web.claims import begin_claim
from broker.web.large_body import LargeBody
from broker.web.listening.http_connection import HttpConnections
from tests.fakes import fake_metrics
from tests.waiting import until

SIZE = 4 * 1024 * 1024
PARTS = [b"a" * 10, b"b" * (SIZE - 30), b"c" * 20]


class SmallBody(bytearray):
    """Bytes whose end can be seen."""


class Bench:
    """A listener without TLS, whose one route answers as `answer` says with a counted answer of `SIZE` bytes."""

    def __init__(self) -> None:
        self.metrics = fake_metrics()
        self.in_flight = InFlight.of(32 * SIZE, self.metrics)
        self.answer: Callable[[web.Request], Awaitable[web.Response]] = self.give
        self.port = 0
        self.parts: list[bytes] = PARTS

    async def start(self, *, write_seconds: float = 60.0) -> None:
        async def handle(request: web.Request) -> web.StreamResponse:
            claim = begin_claim(request, self.in_flight, "agent")
            await claim.answer(SIZE, [])
            return await self.answer(request)

        app = web.Application()
        app.router.add_get("/", handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        connections = HttpConnections(
            runner=self.runner, idle_seconds=60.0, write_seconds=write_seconds, metrics=self.metrics
        )
        self.server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
        # As the broker's own listener does it, or the kernel would take most of an answer at once.
        self.server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        self.port = self.server.sockets[0].getsockname()[1]

    async def give(self, _request: web.Request) -> web.Response:
        return web.Response(body=LargeBody(self.parts))

    async def ask(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Ask on a connection whose kernel takes next to nothing."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return reader, writer

    async def stop(self) -> None:
        self.server.close()
        await self.runner.cleanup()

    @property
    def cut(self) -> float | None:
        return self.metrics.registry.get_sample_value("broker_answers_cut_total")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.stop()


async def close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    await asyncio.sleep(0)


async def test_it_arrives_whole_with_its_length_whatever_its_parts_are(bench: Bench) -> None:
    await bench.start()
    reader, writer = await bench.ask()
    head = await reader.readuntil(b"\r\n\r\n")
    assert f"Content-Length: {SIZE}".encode() in head
    assert b"".join([await reader.readexactly(4096) for _ in range(SIZE // 4096)]) == b"".join(PARTS)
    await close(writer)


async def test_its_bytes_count_until_it_was_taken(bench: Bench) -> None:
    await bench.start()
    reader, writer = await bench.ask()
    await reader.readuntil(b"\r\n\r\n")
    assert bench.in_flight.answers.used == SIZE
    for _ in range(SIZE // 4096):
        await reader.readexactly(4096)
    await until(lambda: bench.in_flight.answers.used == 0)
    await close(writer)


async def test_they_are_free_again_when_the_agent_goes_away(bench: Bench) -> None:
    await bench.start()
    reader, writer = await bench.ask()
    await reader.readuntil(b"\r\n\r\n")
    await close(writer)
    await until(lambda: bench.in_flight.answers.used == 0)
    assert bench.cut == 0


async def test_an_agent_that_does_not_read_is_cut_off(bench: Bench) -> None:
    await bench.start(write_seconds=0.05)
    _, writer = await bench.ask()
    await until(lambda: bench.cut == 1)
    await until(lambda: bench.in_flight.answers.used == 0)
    await close(writer)


async def test_so_is_one_that_reads_a_little_now_and_then(bench: Bench) -> None:
    # What is in the buffers is taken many times within that, and the whole never is.
    await bench.start(write_seconds=0.7)
    reader, writer = await bench.ask()
    while bench.cut == 0:
        with suppress(ConnectionError):
            await reader.read(4096)
        await asyncio.sleep(0.005)
    await until(lambda: bench.in_flight.answers.used == 0)
    await close(writer)


async def test_the_time_of_one_that_has_taken_its_answer_runs_no_more(bench: Bench) -> None:
    await bench.start()
    reader, writer = await bench.ask()
    await reader.readuntil(b"\r\n\r\n")
    (connection,) = bench.runner.server.connections
    assert connection._cut is not None
    for _ in range(SIZE // 4096):
        await reader.readexactly(4096)
    await until(lambda: bench.in_flight.answers.used == 0)
    assert connection._cut is None
    await close(writer)


async def test_they_are_free_again_when_the_handler_fails(bench: Bench) -> None:
    async def fail(_request: web.Request) -> web.Response:
        raise RuntimeError

    bench.answer = fail
    await bench.start()
    reader, writer = await bench.ask()
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 500")
    await until(lambda: bench.in_flight.answers.used == 0)
    await close(writer)


async def test_they_are_free_again_when_the_handler_is_cancelled(bench: Bench) -> None:
    asked = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    bench.answer = hang
    await bench.start()
    _, writer = await bench.ask()
    await asked.wait()
    assert bench.in_flight.answers.used == SIZE
    await bench.runner.cleanup()
    await until(lambda: bench.in_flight.answers.used == 0)
    await close(writer)


@pytest.mark.parametrize("large", [True, False])
async def test_nothing_of_an_answer_stays_with_its_idle_connection(bench: Bench, *, large: bool) -> None:
    bodies: list[weakref.ref[object]] = []

    async def give(_request: web.Request) -> web.Response:
        body = LargeBody([b"x" * 1000]) if large else SmallBody(b"x" * 1000)
        bodies.append(weakref.ref(body))
        return web.Response(body=body)

    bench.answer = give
    await bench.start()
    reader, writer = await bench.ask()
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(1000)
    await until(lambda: bench.in_flight.answers.used == 0)
    gc.collect()
    assert [body() for body in bodies] == [None]
    await close(writer)


def test_a_body_with_values_can_not_be_looked_at() -> None:
    with pytest.raises(TypeError, match="no text"):
        LargeBody([b"x"]).decode()


def test_a_claim_shows_nothing() -> None:
    assert "agent" not in repr(Claim(InFlight.unlimited(), "agent"))
