"""The memory that the platform lets the broker have."""

import math

from prometheus_client import CollectorRegistry, Counter, Gauge


class MemorySeries:
    """State what is used of it, and count how often the cache gave way."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series."""
        self._limit = Gauge(
            "broker_memory_limit_bytes",
            "Smallest memory limit of the broker's control group and its ancestors; NaN: there is none.",
            registry=registry,
        )
        self._used = Gauge(
            "broker_memory_used_bytes",
            "Working set of the control group with that limit; NaN: there is no limit.",
            registry=registry,
        )
        self._limit.set(math.nan)
        self._used.set(math.nan)
        self._gave_way = Counter(
            "broker_cache_gave_way", "Times at which the cache dropped half for want of memory.", registry=registry
        )

    def memory(self, *, limit: int, used: int) -> None:
        """State the limit and the use, in bytes."""
        self._limit.set(limit)
        self._used.set(used)

    def gave_way(self) -> None:
        """Count that the cache gave way."""
        self._gave_way.inc()
