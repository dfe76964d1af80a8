"""What back ends are asked for, what that budget allows, and the leases that they grant."""

from collections.abc import Iterable
from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from broker.series.base import BUCKETS, Children, begin

_ALARMS: Final = (
    *("certificate", "pin", "files", "wrapping_token_used", "wrapping_token_of_another_path"),
    *("mount_gone", "unexpected_status"),
)
_LEASE_EVENTS: Final = (
    *("minted", "renewed", "revoked", "ended", "lost", "dropped"),
    *("mint_failed", "renew_failed", "revoke_failed", "revoke_denied"),
)
_STORES: Final = frozenset({"vault"})


class UpstreamSeries:
    """Count requests to back ends, and state how each is taken to be."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series."""
        # operation: read, login, renew, lookup, mounts, health, lease;
        # outcome: ok, denied, missing, unavailable, invalid.
        self._upstream = Counter(
            "broker_upstream_requests",
            "Requests to a back end.",
            ["provider", "operation", "outcome"],
            registry=registry,
        )
        self._upstream_seconds = Histogram(
            "broker_upstream_seconds",
            "Time of one request to a back end.",
            ["provider"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._upstream_by = Children(self._upstream)
        self._upstream_seconds_by = Children(self._upstream_seconds)
        self._breaker = Gauge(
            "broker_upstream_breaker_open",
            "1 while a back end is taken to be away and only probed.",
            ["provider"],
            registry=registry,
        )
        self._shut = Gauge(
            "broker_upstream_shut_places",
            "Mounts in locked or sealed namespaces of a back end, which are only probed while all others are served.",
            ["provider"],
            registry=registry,
        )
        self._clock_skew = Gauge(
            "broker_clock_skew_seconds",
            "Wall clock of the broker minus that of a back end.",
            ["provider"],
            registry=registry,
        )
        # alarm: one of `_ALARMS`, for a store.
        self._alarms = Counter(
            "broker_upstream_alarms",
            "What a person has to look at on the way to a back end.",
            ["provider", "alarm"],
            registry=registry,
        )

    def expect_upstream(self, *, schemes: Iterable[str]) -> None:
        """Let the alarms of the stores among `schemes` begin at 0."""
        begin(self._alarms, product(_STORES.intersection(schemes), _ALARMS))

    def upstream_request(self, *, provider: str, operation: str, outcome: str, seconds: float) -> None:
        """Count one request to a back end."""
        self._upstream_by.of(provider, operation, outcome).inc()
        self._upstream_seconds_by.of(provider).observe(seconds)

    def upstream_breaker(self, *, provider: str, is_open: bool, places: int) -> None:
        """State whether a back end is taken to be away and only probed, and how many places in it are shut."""
        self._breaker.labels(provider).set(1 if is_open else 0)
        self._shut.labels(provider).set(places)

    def upstream_alarm(self, *, provider: str, alarm: str) -> None:
        """Count what a person has to look at."""
        self._alarms.labels(provider, alarm).inc()

    def clock_skew(self, *, provider: str, seconds: float) -> None:
        """State by how much the wall clock here is ahead of a back end's."""
        self._clock_skew.labels(provider).set(seconds)


class BudgetSeries:
    """State what back ends may be asked, and count what had to wait for it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series."""
        self._budget = Gauge(
            "broker_upstream_budget_per_second",
            "Requests a second that a back end is asked at most.",
            ["provider"],
            registry=registry,
        )
        self._lowest = Gauge(
            "broker_upstream_lowest_budget_per_second",
            "Requests a second of the mount that is asked least, because the back end answered 429 there.",
            ["provider"],
            registry=registry,
        )
        # retry_after: named, unnamed.
        self._limited = Counter(
            "broker_upstream_rate_limited",
            "Answers by which a back end limits the rate of requests.",
            ["provider", "retry_after"],
            registry=registry,
        )
        self._throttled = Counter(
            "broker_upstream_throttled", "Requests that waited for the budget.", ["provider"], registry=registry
        )
        self._budget_refused = Counter(
            "broker_upstream_refused", "Requests that got no turn within the budget.", ["provider"], registry=registry
        )

    def upstream_budget(self, *, provider: str, per_second: float, throttled: int, refused: int) -> None:
        """State the budget of a back end, and add requests that waited for it, and that got no turn in time."""
        self._budget.labels(provider).set(per_second)
        self._throttled.labels(provider).inc(throttled)
        self._budget_refused.labels(provider).inc(refused)

    def expect_limits(self, *, schemes: Iterable[str]) -> None:
        """Let the limits of the stores among `schemes` begin at 0."""
        begin(self._limited, product(_STORES.intersection(schemes), ("named", "unnamed")))

    def upstream_lowest_budget(self, *, provider: str, per_second: float) -> None:
        """State the requests a second of the place that gets least."""
        self._lowest.labels(provider).set(per_second)

    def upstream_limited(self, *, provider: str, named: bool) -> None:
        """Count an answer that limits the rate of requests."""
        self._limited.labels(provider, "named" if named else "unnamed").inc()


class LeaseSeries:
    """Count what becomes of leases."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series."""
        self._leases = Gauge("broker_leases_active", "Leases that are handed out.", registry=registry)
        # event: one of `_LEASE_EVENTS`.
        self._lease_events = Counter(
            "broker_lease_events", "What became of leases.", ["provider", "event"], registry=registry
        )

        # outcome: done, refused, limited.
        self._lease_orders = Counter(
            "broker_lease_orders", "Orders of administrators to take leases back.", ["outcome"], registry=registry
        )

    def expect_leases(self, *, schemes: Iterable[str]) -> None:
        """Let the events of the stores among `schemes` begin at 0."""
        begin(self._lease_events, product(_STORES.intersection(schemes), _LEASE_EVENTS))
        begin(self._lease_orders, product(("done", "refused", "limited")))

    def lease_order(self, *, outcome: str) -> None:
        """Count one order to take leases back."""
        self._lease_orders.labels(outcome).inc()

    def leases_active(self, count: int) -> None:
        """State how many leases are handed out."""
        self._leases.set(count)

    def lease(self, *, provider: str, event: str) -> None:
        """Count what became of one lease."""
        self._lease_events.labels(provider, event).inc()
