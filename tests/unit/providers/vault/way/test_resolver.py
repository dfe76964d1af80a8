"""Names of the store: resolved again and again, and served from the last good addresses."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from broker.providers.vault.way.resolver import LastGoodResolver, look_up

Answer = Callable[[], Sequence[tuple[Any, ...]]]


class Names:
    """A resolver of the system whose answer a test chooses."""

    def __init__(self) -> None:
        self.answer: Answer = lambda: [found("192.0.2.1"), found("192.0.2.2")]

    def __call__(self, host: str, port: int, family: int) -> Sequence[tuple[Any, ...]]:
        return self.answer()


def found(address: str) -> tuple[Any, ...]:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 8200))


def dead() -> Sequence[tuple[Any, ...]]:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.fixture
async def names() -> Names:
    return Names()


@pytest.fixture
async def resolver(names: Names) -> AsyncIterator[LastGoodResolver]:
    it = LastGoodResolver(seconds=0.2, ask=names)
    yield it
    await it.close()


async def hosts(resolver: LastGoodResolver) -> list[str]:
    return [result["host"] for result in await resolver.resolve("store.example", 8200)]


async def test_a_name_is_asked_for_each_time(resolver: LastGoodResolver, names: Names) -> None:
    assert await hosts(resolver) == ["192.0.2.1", "192.0.2.2"]
    names.answer = lambda: [found("192.0.2.9")]
    assert await hosts(resolver) == ["192.0.2.9"]


async def test_a_name_that_was_never_resolved_is_unknown(resolver: LastGoodResolver, names: Names) -> None:
    names.answer = dead
    with pytest.raises(OSError):
        await hosts(resolver)


async def test_the_last_good_addresses_serve_while_nobody_answers(resolver: LastGoodResolver, names: Names) -> None:
    await hosts(resolver)
    names.answer = dead
    assert await hosts(resolver) == ["192.0.2.1", "192.0.2.2"]


async def test_look_ups_that_hang_hold_nobody_up(resolver: LastGoodResolver, names: Names) -> None:
    await hosts(resolver)
    hanging = threading.Event()

    def hang() -> Sequence[tuple[Any, ...]]:
        hanging.wait(20)
        return []

    names.answer = hang
    try:
        async with asyncio.timeout(10):
            assert await asyncio.gather(*(hosts(resolver) for _ in range(5))) == [["192.0.2.1", "192.0.2.2"]] * 5
    finally:
        hanging.set()


async def test_the_system_is_asked_for_the_addresses_of_a_real_name() -> None:
    resolver = LastGoodResolver(seconds=5, ask=look_up)
    assert {result["host"] for result in await resolver.resolve("localhost", 1, socket.AF_INET)} == {"127.0.0.1"}
    await resolver.close()


async def test_a_name_has_moved_when_none_of_its_first_addresses_is_left(
    resolver: LastGoodResolver, names: Names
) -> None:
    assert not await resolver.has_moved(), "no name was asked for"
    await hosts(resolver)
    names.answer = lambda: [found("192.0.2.2"), found("192.0.2.3")]
    assert not await resolver.has_moved()
    names.answer = dead
    assert not await resolver.has_moved()
    names.answer = lambda: [found("192.0.2.3")]
    await hosts(resolver)
    assert await resolver.has_moved(), "what was asked for since makes no old connection good"
