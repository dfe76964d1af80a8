"""Work that many ask for and one does: a login, a look-up of a token, a look at a mount."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, TypeVar

from broker.errors import SourceUnavailableError

T = TypeVar("T")


class SingleFlight:
    """Run at most one piece of work for each key at a time; whoever asks meanwhile gets its result or its error."""

    def __init__(self) -> None:
        """Start with nothing under way."""
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of the work under way for `key`, begun here when there is none.

        A caller that is cancelled leaves the work to the others.

        Raises:
            SourceUnavailableError: The provider was closed meanwhile.

        """
        task: asyncio.Task[T] | None = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(make())
            task.add_done_callback(partial(self._forget, key))
        await asyncio.wait({task})
        if task.cancelled():
            message = "the broker is closing its connection to the store"
            raise SourceUnavailableError(message)
        return task.result()

    async def aclose(self) -> None:
        """Cancel what is under way and wait for its end."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _forget(self, key: Hashable, task: "asyncio.Task[Any]") -> None:
        if self._running.get(key) is task:
            del self._running[key]
        if not task.cancelled():
            # Marks the error as seen: every caller may have gone in the meantime.
            task.exception()
