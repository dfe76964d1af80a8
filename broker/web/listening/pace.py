"""When the next connection is admitted: as soon as earlier ones have been, so that each of many has its time."""

import asyncio
from contextlib import suppress
from typing import NewType

Turn = NewType("Turn", int)


class Pace:
    """Let a bounded number of handshakes go on side by side; who comes then waits in the kernel, in order.

    Without it a thousand handshakes that begin together also end together, which is when the time of each is up.
    A slow or silent client holds nobody up: while none ends, those that go on soon count no more.
    """

    def __init__(self, *, at_once: int, stuck_seconds: float) -> None:
        """Count at most `at_once` handshakes, and none of them any more when none has ended for `stuck_seconds`."""
        self._at_once = at_once
        self._stuck_seconds = stuck_seconds
        self._going = 0
        self._turn = Turn(0)
        self._ended = asyncio.Event()

    async def wait(self) -> None:
        """Return when one more handshake may begin."""
        while self._going >= self._at_once:
            self._ended.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._stuck_seconds):
                    await self._ended.wait()
            if not self._ended.is_set():
                self._going = 0
                self._turn = Turn(self._turn + 1)

    def take(self) -> Turn:
        """Count a handshake that begins; what is returned is for its `end`."""
        self._going += 1
        return self._turn

    def end(self, turn: Turn) -> None:
        """Count it no more, and let the next one begin."""
        if turn == self._turn:
            self._going -= 1
        self._ended.set()
