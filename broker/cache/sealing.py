"""Keep what is remembered in a sealed file, and take it back at the next start."""

import asyncio
from typing import Final

from broker.cache.cache import Cache
from broker.cache.remembered import Fetch
from broker.cache.sealed import SealedCacheError, SealedFile
from broker.clock import Clock
from broker.finding import FoundError
from broker.logs import EventLogger

_LOG: Final = EventLogger("broker.sealing")
# How often the file is made equal to what is remembered.
_SECONDS: Final = 5.0


class Sealing:
    """Tie one file to the cache."""

    def __init__(self, *, file: SealedFile, cache: Cache, fetch: Fetch, clock: Clock) -> None:
        """Keep the collaborators; `fetch` is how what is restored will be read again."""
        self._file = file
        self._cache = cache
        self._fetch = fetch
        self._clock = clock

    async def restore(self) -> None:
        """Let the cache remember what the file holds; with a file that can't be used it starts as without one."""
        try:
            entries = await asyncio.to_thread(self._file.load, now=self._clock.now())
        except SealedCacheError as error:
            _LOG.error("sealed_cache_refused", reason=error.reason)
            return
        except FoundError as error:
            _LOG.error("sealed_cache_refused", reason=error.finding.code)
            return
        for entry in entries:
            self._cache.restore(
                entry.source, entry.reading, fetched_at=entry.fetched_at, ends_at=entry.ends_at, fetch=self._fetch
            )
        _LOG.info("sealed_cache_restored", sources=len(entries))

    async def keep(self) -> None:
        """Keep the file equal to what is remembered, for ever, and once more at the end."""
        try:
            while True:
                await asyncio.sleep(_SECONDS)
                await self.seal()
        finally:
            await self.seal()

    async def seal(self) -> None:
        """Make the file equal to what is remembered now."""
        try:
            await asyncio.to_thread(self._file.save, self._cache.held())
        except SealedCacheError as error:
            _LOG.error("sealed_cache_not_written", reason=error.reason)
