"""A store whose secrets a test changes, and the feed that compares them."""

from collections.abc import Callable, Collection, Mapping

from broker.cache.remembered import Cached
from broker.changes.feed import ChangeFeed
from broker.changes.subscription import Subscription
from broker.errors import SourceUnavailableError
from broker.providers.base import Revision
from broker.reference import Source
from tests.fakes import text_reading


class ChangingStore:
    """Tells revisions, remembers what was renewed, and is read where it can't tell."""

    def __init__(self) -> None:
        self.revisions_of: dict[Source, Revision] = {}
        self.values: dict[Source, str | Exception] = {}
        self.leases: dict[Source, str] = {}
        self.looks = 0
        self.renewed: list[Source] = []
        self.down = False
        self.feed = ChangeFeed(
            cache=self,
            comparable={"vault": self},
            reread=self.reread,
            marks=lambda cached: cached.reading.document.select(()).reveal().decode(),
            seconds=30,
        )

    def set(self, source: Source, version: int | None) -> None:
        self.revisions_of[source] = (
            Revision(None, "gone") if version is None else Revision(str(version), f"written {version}")
        )

    async def revisions(self, sources: Collection[Source]) -> Mapping[Source, Revision]:
        self.looks += 1
        if self.down:
            raise SourceUnavailableError("away")
        return {source: self.revisions_of[source] for source in sources if source in self.revisions_of}

    async def renew(self, concerns: Callable[[Source], bool] | None) -> int:
        assert concerns is not None
        self.renewed += [source for source in (*self.revisions_of, *self.values) if concerns(source)]
        return 1

    async def reread(self, source: Source, max_stale: float) -> Cached:
        value = self.values[source]
        if isinstance(value, Exception):
            raise value
        return Cached(text_reading(value), 0, 0, 0, stale=False)

    def watch(self, *sources: Source, after: str = "", known: dict[Source, str] | None = None) -> Subscription:
        subscription = Subscription(dict.fromkeys(sources, 60.0), known or {}, lease_of=self.leases.get)
        self.resumed = self.feed.subscribe(subscription, after=after)
        return subscription
