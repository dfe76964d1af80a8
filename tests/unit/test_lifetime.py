"""What lives as long as the broker: order, and work that fails."""

import asyncio
import logging

import pytest

from broker.lifetime import Lifetime

_PAUSE = 0.001


async def test_what_began_last_ends_first() -> None:
    ended: list[str] = []
    life = Lifetime()

    async def close(name: str) -> None:
        ended.append(name)

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    life.at_end(lambda: close("first"))
    life.keep("work", work)
    life.at_end(lambda: close("last"))
    await asyncio.sleep(0)
    await life.end()
    assert ended == ["last", "work", "first"]


async def test_work_that_fails_is_logged_by_its_name_and_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    again = asyncio.Event()
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            message = "a bug with a value in its text"
            raise ValueError(message)
        again.set()

    life = Lifetime(pause_seconds=_PAUSE)
    with caplog.at_level(logging.ERROR):
        life.keep("cache", work)
        async with asyncio.timeout(5):
            await again.wait()
    await life.end()
    assert "task_failed task=cache error=ValueError" in caplog.text
    assert "a value" not in caplog.text


async def test_work_that_fails_at_the_end_is_not_begun_again_and_the_rest_ends() -> None:
    closed, runs = False, 0

    async def close() -> None:
        nonlocal closed
        closed = True

    async def work() -> None:
        nonlocal runs
        runs += 1
        try:
            await asyncio.Event().wait()
        finally:
            message = "the disk is full"
            raise OSError(message)

    life = Lifetime(pause_seconds=_PAUSE)
    life.at_end(close)
    life.keep("sealing", work)
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await life.end()
    assert (closed, runs) == (True, 1)


async def test_a_close_that_fails_keeps_nothing_else_from_ending() -> None:
    closed = False

    async def close() -> None:
        nonlocal closed
        closed = True

    async def fail() -> None:
        message = "no"
        raise OSError(message)

    life = Lifetime()
    life.at_end(close)
    life.at_end(fail)
    with pytest.raises(OSError, match="no"):
        await life.end()
    assert closed
