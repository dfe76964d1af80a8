"""What has changed at the sources that agents watch: compared once an interval, however many watch."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, Protocol, runtime_checkable

from broker.cache.remembered import Cached
from broker.changes.journal import Change, Journal
from broker.changes.subscription import Subscription
from broker.errors import (
    FetchError,
    SecretMissingError,
    SourceMintsError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.logs import EventLogger, error_fields
from broker.providers.base import Revision
from broker.reference import Source

_LOG: Final = EventLogger("broker.changes")
_JITTER: Final = 0.1
# Looks at a source after its last watcher has gone, so that one that comes back misses nothing.
_LINGER: Final = 10
# Sources without a watcher that are looked at, so that who comes and goes with ever new ones leaves few behind.
_MAX_LINGERING: Final = 5_000
_GONE: Final = Revision(version=None, mark="gone")

Reread = Callable[[Source, float], Awaitable[Cached]]
Marks = Callable[[Cached], str]


@runtime_checkable
class Comparable(Protocol):
    """A provider that tells revisions without reading values."""

    async def revisions(self, sources: Collection[Source]) -> Mapping[Source, Revision]:
        """Return the revisions of those of `sources` that can be told so. Raises: FetchError."""
        ...


class Renewer(Protocol):
    """Remembers values, and lets those that have changed be read again."""

    async def renew(self, concerns: Callable[[Source], bool] | None) -> int:
        """Let the sources that `concerns` names be read again."""
        ...


class ChangeFeed:
    """Compare what is watched, and tell each watcher of its own sources."""

    def __init__(
        self, *, cache: Renewer, comparable: Mapping[str, Comparable], reread: Reread, marks: Marks, seconds: float
    ) -> None:
        """Compare every `seconds`, by `comparable` where a scheme has one, else by reading through `reread`."""
        self._cache = cache
        self._comparable = comparable
        self._reread = reread
        self._marks = marks
        self._seconds = seconds
        self._random = secrets.SystemRandom().random
        self._journal = Journal()
        self._watchers: Counter[Source] = Counter()
        self._revisions: dict[Source, Revision] = {}
        self._stale: dict[Source, float] = {}
        # The number of the last change when a source began to be compared, and the looks left after its last watcher.
        self._since: dict[Source, int] = {}
        self._idle: dict[Source, int] = {}
        # What is made for each asker: there every watcher has a lease of its own to follow.
        self._minting: set[Source] = set()
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    @property
    def position(self) -> str:
        """Return the id of the last change, after which a watcher may go on later."""
        return self._journal.position

    def version_of(self, source: Source) -> str | None:
        """Return the version of a watched source, None when it has none or was not compared yet."""
        revision = self._revisions.get(source)
        return None if revision is None else revision.version

    def subscribe(self, subscription: Subscription, *, after: str) -> bool:
        """Tell `subscription` of changes from now on, and of those since `after`; return whether none is missing."""
        self._subscriptions.add(subscription)
        self._watchers.update(subscription.sources.keys())
        complete = self._replay(subscription, after)
        for source, seconds in subscription.sources.items():
            self._since.setdefault(source, self._journal.number)
            self._idle.pop(source, None)
            self._stale[source] = max(seconds, self._stale.get(source, 0.0))
        if self._closed:
            subscription.end("shutdown")
        return complete

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a watcher."""
        self._subscriptions.discard(subscription)
        self._watchers.subtract(subscription.sources.keys())
        for source in subscription.sources:
            if self._watchers[source] <= 0:
                del self._watchers[source]
                self._idle[source] = _LINGER
        while len(self._idle) > _MAX_LINGERING:
            self._forget(next(iter(self._idle)))

    async def run(self) -> None:
        """Compare for ever."""
        while True:
            await asyncio.sleep(self._seconds * (1 - _JITTER * self._random()))
            try:
                await self.compare()
            except Exception as error:  # noqa: BLE001  Watchers outlive a bug; the next look may go well.
                _LOG.error("bug", **error_fields(error))

    async def compare(self) -> None:
        """Look at every watched source once, and tell what has changed."""
        by_scheme: dict[str, list[Source]] = {}
        for source in tuple(self._since):
            by_scheme.setdefault(source.scheme, []).append(source)
        for scheme, sources in by_scheme.items():
            await self._take_in(await self._compared(scheme, sources))
        for subscription in tuple(self._subscriptions) if self._minting else ():
            for source in subscription.sources.keys() & self._minting:
                self._follow_lease(subscription, source)
            await asyncio.sleep(0)
        self._let_go()

    async def aclose(self) -> None:
        """Let every watcher go."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end("shutdown")

    def _let_go(self) -> None:
        for source, left in tuple(self._idle.items()):
            self._idle[source] = left - 1
            if left <= 1:
                self._forget(source)

    def _forget(self, source: Source) -> None:
        for table in (self._idle, self._since, self._revisions, self._stale):
            table.pop(source, None)
        self._minting.discard(source)

    async def _compared(self, scheme: str, sources: Collection[Source]) -> Mapping[Source, Revision]:
        provider = self._comparable.get(scheme)
        found: dict[Source, Revision] = {}
        if provider is not None:
            try:
                found = dict(await provider.revisions(sources))
            except FetchError as error:
                _LOG.debug("not_compared", provider=scheme, reason=error.detail)
                return found
        for source in sources:
            if source not in found:
                await self._read_into(found, source)
        return found

    async def _read_into(self, found: dict[Source, Revision], source: Source) -> None:
        try:
            cached = await self._reread(source, self._stale.get(source, 0.0))
        except SourceMintsError:
            self._minting.add(source)
        except SourceUnavailableError:
            return
        except (SecretMissingError, UpstreamDeniedError):
            found[source] = _GONE
        except FetchError:
            return
        else:
            self._minting.discard(source)
            found[source] = Revision(version=cached.reading.version, mark=self._marks(cached))

    async def _take_in(self, found: Mapping[Source, Revision]) -> None:
        changed = {
            source
            for source, revision in found.items()
            if source in self._since and self._revisions.get(source, revision).mark != revision.mark
        }
        outdated = set(changed)
        first_looks: list[tuple[Subscription, set[Source]]] = []
        # Who comes from now on has its first look the next time.
        for subscription in tuple(self._subscriptions):
            if subscription.known:
                sources = found.keys() & subscription.known.keys()
                outdated |= _behind(subscription, sources, found)
                first_looks.append((subscription, sources))
                # A fleet that has come since the last look leaves others their turn.
                await asyncio.sleep(0)
        if outdated:
            # Before anybody is told: who asks then must not get what was there before.
            await self._cache.renew(outdated.__contains__)
        self._revisions.update({source: found[source] for source in found if source in self._since})
        for source in found:
            if source in changed:
                self._announce(source, found[source])
        for subscription, sources in first_looks:
            for source in sources:
                self._check_known(subscription, source)
            await asyncio.sleep(0)

    def _announce(self, source: Source, revision: Revision) -> None:
        change = self._journal.add(source, version=revision.version, gone=revision.is_gone)
        for subscription in self._subscriptions:
            if source in subscription.sources:
                subscription.tell(change)
                # Whatever it had is old now, which its first look need not tell it again.
                subscription.known.pop(source, None)

    def _check_known(self, subscription: Subscription, source: Source) -> None:
        """Tell a watcher of a source that has another version than it has, at the first look since it came."""
        known, revision = subscription.known.pop(source, None), self._revisions.get(source)
        if known is not None and revision is not None and revision.version != known:
            subscription.tell(Change(self._journal.number, source, revision.version, gone=revision.is_gone))

    def _follow_lease(self, subscription: Subscription, source: Source) -> None:
        """Tell a watcher whose lease has gone or was replaced; while it should be replaced, at each look."""
        had, lease = subscription.known.get(source), subscription.lease_of(source)
        if lease == "" or (had is not None and lease != had):
            subscription.tell(Change(self._journal.number, source, lease or None, gone=False))
        if lease:
            subscription.known[source] = lease
        elif lease is None:
            subscription.known.pop(source, None)

    def _replay(self, subscription: Subscription, after: str) -> bool:
        last_seen = self._journal.number_at(after)
        if last_seen is None:
            return False
        for change in self._journal.since(last_seen):
            if change.source in subscription.sources:
                subscription.tell(change)
        if not self._minting.isdisjoint(subscription.sources):
            # Leases are no entries of the journal.
            return False
        began = max((self._since.get(source, self._journal.number + 1) for source in subscription.sources), default=0)
        return last_seen >= max(self._journal.complete_after, began)


def _behind(watcher: Subscription, sources: Collection[Source], found: Mapping[Source, Revision]) -> set[Source]:
    """Return those of `sources` of which the watcher has another version, perhaps out of what is remembered."""
    return {source for source in sources if watcher.known[source] != found[source].version}
