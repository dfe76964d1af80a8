"""What the series of every area share."""

from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Histogram

# Seconds. From half a millisecond, an answer out of memory, to what no agent waits for.
BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def begin(series: Counter | Histogram, labels: Iterable[tuple[str, ...]]) -> None:
    """Let `series` begin at 0 for each of `labels`, so that a rate sees the first increase too."""
    for values in labels:
        series.labels(*values)
