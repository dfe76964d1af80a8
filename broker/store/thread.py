"""A thread of its own for one SQLite connection, whose calls run in the order asked."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

_T = TypeVar("_T")
_Job = Callable[[], None]


class StoreThread:
    """Run functions one after the other, away from the event loop."""

    def __init__(self, *, name: str) -> None:
        """Begin with `start`; `name` is what a debugger shows."""
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def runs(self) -> bool:
        """Tell whether what is submitted will be done."""
        return self._thread is not None

    def start(self) -> None:
        """Begin; a second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    async def aclose(self, last: Callable[[], None]) -> None:
        """Finish what was submitted, then `last`, and end; a second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        closed = self.submit(last)
        self._jobs.put(None)
        await closed

    def submit(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        """Run `function` in the thread; the way there and back is a part of every commit."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def job() -> None:
            # A job whose caller gave up before it began is not begun.
            if future.cancelled():
                return
            settle: Callable[[], None]
            try:
                settle = partial(_give, future, function())
            except BaseException as error:  # noqa: BLE001  Every outcome belongs to the caller.
                settle = partial(_fail, future, error)
            # A loop that was closed meanwhile has nobody left who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(settle)

        self._jobs.put(job)
        return future

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _give(future: asyncio.Future[_T], result: _T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[_T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
