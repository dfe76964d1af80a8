"""Waiting for what another process, a thread or a task does: only a condition that never holds fails a test."""

import asyncio
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], what: str = "the condition", *, seconds: float = 90.0) -> None:
    """Return as soon as `condition` holds, and fail when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.05)


async def until(condition: Callable[[], bool], *, seconds: float = 90.0) -> None:
    """Return as soon as `condition` holds, and fail when it never does; the event loop goes on meanwhile."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  The condition is somebody else's state, which sets no event.
            await asyncio.sleep(0.01)
