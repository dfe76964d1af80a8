"""Finish the requests in flight before aiohttp closes their connections.

aiohttp's own shutdown throws away what still arrives on a connection, so a request whose body is under way
at that moment would never get it, and be answered with a timeout. Here the requests end first.
"""

import asyncio
from contextlib import suppress
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

# A request whose head has just come is not counted before its task has run.
_SETTLE_SECONDS: Final = 0.05


class Drain:
    """Knows how many requests are in flight, and when there are none."""

    def __init__(self) -> None:
        """Begin with none."""
        self._in_flight = 0
        self._none = asyncio.Event()
        self._none.set()
        self._ending = False

    def middleware(self) -> Middleware:
        """Return the middleware that counts; it has to be the outermost one."""

        @web.middleware
        async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._in_flight += 1
            self._none.clear()
            try:
                response = await handler(request)
                if self._ending:
                    # The client's next request on this connection would be cut off; it had better open another.
                    response.force_close()
                return response
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self._none.set()

        return counted

    async def finish(self, *, seconds: float) -> None:
        """Return when no request is in flight any more, after `seconds` at the latest."""
        self._ending = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.sleep(_SETTLE_SECONDS)
                while self._in_flight:
                    await self._none.wait()
                    await asyncio.sleep(_SETTLE_SECONDS)
