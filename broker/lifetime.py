"""What lives as long as the broker: its background tasks, and what is closed at the end, the last begun first."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from broker.logs import EventLogger, error_fields

_LOG: Final = EventLogger("broker.lifetime")
_PAUSE_SECONDS: Final = 1.0
_Work = Callable[[], Coroutine[None, None, None]]


class Lifetime:
    """Begin things in order, and end them in the reverse one."""

    def __init__(self, *, pause_seconds: float = _PAUSE_SECONDS) -> None:
        """Begin with nothing; a task that has failed is begun again after `pause_seconds`."""
        self._pause_seconds = pause_seconds
        self._stack = AsyncExitStack()

    def at_end(self, close: Callable[[], Awaitable[object]]) -> None:
        """Await `close` at the end, before whatever was begun earlier."""
        self._stack.push_async_callback(close)

    def keep(self, name: str, work: _Work) -> None:
        """Run `work` until the end; where it fails, that is logged under `name`, and it is begun again."""
        self.at_end(partial(_end, asyncio.create_task(self._run(name, work))))

    async def end(self) -> None:
        """End everything; what fails to end keeps nothing else from ending."""
        await self._stack.aclose()

    async def _run(self, name: str, work: _Work) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001  A bug in one of them must not leave leases or certificates alone.
                _LOG.error("task_failed", task=name, **error_fields(error))
                if _is_ending():
                    return
            else:
                return
            await asyncio.sleep(self._pause_seconds)


def _is_ending() -> bool:
    """Tell whether the current task was cancelled, and its work has failed on its way out."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    # Unlike `await task`, this lets a cancellation of whoever waits through, and raises nothing of the task's.
    await asyncio.wait({task})
