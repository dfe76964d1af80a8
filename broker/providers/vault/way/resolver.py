"""Names of the store, resolved again and again, and served from the last good addresses while nobody answers."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

# A look-up that hangs holds its thread for as long as the C library waits, and must not hold anybody else's.
_THREADS: Final = 2

_Key = tuple[str, int, socket.AddressFamily]
LookUp = Callable[[str, int, int], Sequence[tuple[Any, ...]]]


def look_up(host: str, port: int, family: int) -> Sequence[tuple[Any, ...]]:
    """Ask the system's resolver. Blocks."""
    return socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)


class LastGoodResolver(AbstractResolver):
    """Resolve in threads of its own, and at most for `seconds`."""

    def __init__(self, *, seconds: float, ask: LookUp = look_up) -> None:
        """Start without an address."""
        self._seconds = seconds
        self._ask = ask
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="store-names")
        self._good: dict[_Key, list[ResolveResult]] = {}
        self._first: dict[_Key, frozenset[str]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of `host` now, or the last that it had.

        Raises:
            OSError: It never had one.

        """
        key = (host, port, family)
        try:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(self._seconds):
                found = await loop.run_in_executor(self._threads, self._ask, host, port, family)
        except OSError:
            # A time-out is one of them.
            if key not in self._good:
                raise
            return self._good[key]
        self._good[key] = [_result(host, port, entry) for entry in found]
        self._first.setdefault(key, _hosts(self._good[key]))
        return self._good[key]

    async def has_moved(self) -> bool:
        """Tell whether a name has none of the addresses any more that it had when it was resolved first."""
        for (host, port, family), first in list(self._first.items()):
            if first.isdisjoint(_hosts(await self.resolve(host, port, family))):
                return True
        return False

    async def close(self) -> None:
        """Leave the threads to end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _hosts(results: Sequence[ResolveResult]) -> frozenset[str]:
    return frozenset(result["host"] for result in results)


def _result(host: str, port: int, entry: tuple[Any, ...]) -> ResolveResult:
    family, _, protocol, _, place = entry
    # A link-local address of IPv6 is nothing without its zone.
    zone = f"%{place[3]}" if family == socket.AF_INET6 and place[3] else ""
    return ResolveResult(
        hostname=host,
        host=f"{place[0].partition('%')[0]}{zone}",
        port=port,
        family=family,
        proto=protocol,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
