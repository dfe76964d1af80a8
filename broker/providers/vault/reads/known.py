"""Which sources the store had when it was asked last: their absence is looked at twice before it is believed."""

from collections import OrderedDict

from broker.reference import Source


class KnownSources:
    """Remember sources, the latest `limit` of them."""

    def __init__(self, *, limit: int) -> None:
        """Start with none."""
        self._limit = limit
        self._sources: OrderedDict[Source, None] = OrderedDict()

    def add(self, source: Source) -> None:
        """Note that the store has `source`."""
        self._sources[source] = None
        self._sources.move_to_end(source)
        if len(self._sources) > self._limit:
            self._sources.popitem(last=False)

    def __contains__(self, source: Source) -> bool:
        """Tell whether the store is known to have had `source`."""
        return source in self._sources

    def forget(self, source: Source) -> None:
        """Note that the store may not have `source` any more."""
        self._sources.pop(source, None)
