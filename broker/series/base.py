"""What the series of every area share."""

from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from prometheus_client import Counter, Histogram

SeriesT = TypeVar("SeriesT", Counter, Histogram)

# Seconds. From half a millisecond, an answer out of memory, to what no agent waits for.
BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def begin(series: Counter | Histogram, labels: Iterable[tuple[str, ...]]) -> None:
    """Let `series` begin at 0 for each of `labels`, so that a rate sees the first increase too."""
    for values in labels:
        series.labels(*values)


class Children(Generic[SeriesT]):
    """The children of one series by their labels, for what is counted at every request.

    prometheus_client finds a child under a lock and by text, which costs more than to count. The labels are of closed
    sets, so that this grows no further than the series itself.
    """

    __slots__ = ("_known", "_series")

    def __init__(self, series: SeriesT) -> None:
        """Begin with none of them known."""
        self._series: SeriesT = series
        self._known: dict[tuple[str | int, ...], SeriesT] = {}

    def of(self, *labels: str | int) -> SeriesT:
        """Return the child with these labels."""
        child = self._known.get(labels)
        if child is None:
            child = self._known[labels] = self._series.labels(*labels)
        return child
