"""What memory holds, and for how long."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from broker.series.base import Children, begin

_LOOKUPS: Final = ("hit", "stale", "miss", "joined", "refused")
_ORDER_WAYS: Final = ("administrator", "webhook")


@dataclass(slots=True)
class Outlook:
    """What memory holds of one provider's sources: how many can still be used, and the wall times of their ends.

    Attributes:
        usable: How many can still be used.
        next_end: When the first of them can't be used any more.
        last_end: When the last of them can't.
        overdue: How many are older than their owners want them to grow.
        oldest: When the oldest of the secret versions was written, None where no back end says so.

    """

    usable: int = 0
    next_end: float = math.inf
    last_end: float = -math.inf
    oldest: float | None = None
    overdue: int = 0

    def add(self, *, end: float, created_at: float | None, overdue: bool = False) -> None:
        """Count one source that can be used until `end`."""
        self.overdue += overdue
        self.usable += 1
        self.next_end = min(self.next_end, end)
        self.last_end = max(self.last_end, end)
        if created_at is not None:
            self.oldest = created_at if self.oldest is None else min(self.oldest, created_at)


class CacheSeries:
    """Count look-ups and orders, and state what memory holds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series."""
        # result: hit, stale, miss, joined, refused.
        self._cache_lookups = Counter("broker_cache_lookups", "Look-ups in the cache.", ["result"], registry=registry)
        self._cache_lookups_by = Children(self._cache_lookups)
        self._cache_entries = Gauge("broker_cache_entries", "Sources held in the cache.", registry=registry)
        self._cache_bytes = Gauge("broker_cache_bytes", "Bytes of values held in the cache.", registry=registry)
        self._cache_evictions = Counter("broker_cache_evictions", "Sources dropped for room.", registry=registry)
        # action: invalidate, refresh, or `none` when it was refused; way: administrator, webhook; outcome: done,
        # refused, limited.
        self._cache_orders = Counter(
            "broker_cache_orders",
            "Orders to invalidate or refresh what is remembered.",
            ["action", "way", "outcome"],
            registry=registry,
        )
        # The next three are NaN while nothing is held, so that nothing can be concluded from them.
        self._cache_usable = Gauge(
            "broker_cache_usable_sources", "Sources that memory can still answer for.", ["provider"], registry=registry
        )
        self._cache_next_end = Gauge(
            "broker_cache_next_end_timestamp_seconds",
            "When the next of the usable sources is lost, if its back end stays away.",
            ["provider"],
            registry=registry,
        )
        self._cache_last_end = Gauge(
            "broker_cache_last_end_timestamp_seconds",
            "When the last of the usable sources is lost, if their back end stays away.",
            ["provider"],
            registry=registry,
        )
        self._oldest_secret = Gauge(
            "broker_secret_oldest_created_timestamp_seconds",
            "When the oldest secret version in use was written, where its back end says so.",
            ["provider"],
            registry=registry,
        )
        self._overdue = Gauge(
            "broker_secrets_overdue",
            "Secrets in use that are older than the rotation_age in their metadata.",
            ["provider"],
            registry=registry,
        )

    def expect_cache(self) -> None:
        """Let the counters begin at 0."""
        begin(self._cache_lookups, product(_LOOKUPS))
        begin(self._cache_orders, product(("invalidate", "refresh"), _ORDER_WAYS, ("done", "limited")))
        begin(self._cache_orders, product(("none",), _ORDER_WAYS, ("refused",)))

    def cache_lookup(self, result: str) -> None:
        """Count one look-up: hit, stale, miss, joined or refused."""
        self._cache_lookups_by.of(result).inc()

    def cache_size(self, *, entries: int, size: int, evicted: int = 0) -> None:
        """State what the cache holds."""
        self._cache_entries.set(entries)
        self._cache_bytes.set(size)
        if evicted:
            self._cache_evictions.inc(evicted)

    def cache_order(self, *, action: str, way: str, outcome: str) -> None:
        """Count one order to the cache."""
        self._cache_orders.labels(action, way, outcome).inc()

    def cache_outlook(self, outlook: Mapping[str, Outlook]) -> None:
        """State how long memory lasts for the sources of each provider, and how old its oldest secret is."""
        for provider, one in outlook.items():
            self._cache_usable.labels(provider).set(one.usable)
            self._cache_next_end.labels(provider).set(one.next_end if one.usable else math.nan)
            self._cache_last_end.labels(provider).set(one.last_end if one.usable else math.nan)
            self._overdue.labels(provider).set(one.overdue)
            self._oldest_secret.labels(provider).set(math.nan if one.oldest is None else one.oldest)
