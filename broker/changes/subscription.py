"""What one watcher has still to be told."""

import asyncio
from collections.abc import Callable, Mapping

from broker.changes.journal import Change
from broker.reference import Source

# The name of the lease that a watcher has of a source, "" when it should be replaced, None when there is none.
LeaseOf = Callable[[Source], str | None]


def _no_lease(_source: Source) -> None:
    return None


class Subscription:
    """What one watcher has not been told yet. A slow one is told of the last change of each source alone."""

    def __init__(
        self, sources: Mapping[Source, float], known: Mapping[Source, str], *, lease_of: LeaseOf = _no_lease
    ) -> None:
        """Watch `sources`, each with the seconds that it may be remembered.

        `known` are the versions that are had, and the names of the leases. `lease_of` counts as asking for the lease.
        """
        self.sources = dict(sources)
        self.known = dict(known)
        self.lease_of = lease_of
        self.ended = ""
        self._pending: dict[Source, Change] = {}
        self._news = asyncio.Event()

    def tell(self, change: Change) -> None:
        """Add a change."""
        self._pending.pop(change.source, None)
        self._pending[change.source] = change
        self._news.set()

    def end(self, reason: str) -> None:
        """Let the watcher be told that there is no more to come, and why."""
        self.ended = self.ended or reason
        self._news.set()

    async def wait(self) -> None:
        """Return when there is something to tell."""
        await self._news.wait()

    def take(self) -> tuple[Change, ...]:
        """Return what there is to tell, in the order in which it happened."""
        changes = tuple(self._pending.values())
        self._pending.clear()
        if not self.ended:
            self._news.clear()
        return changes
