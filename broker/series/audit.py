"""The trail: what is durable, what waits, what failed."""

from collections import Counter as Counts
from collections.abc import Iterable
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from broker.series.base import BUCKETS, Children, begin


class AuditSeries:
    """Count events and commits of the trail."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series."""
        self._audit_events = Counter("broker_audit_events", "Events made durable.", ["kind"], registry=registry)
        self._audit_events_by = Children(self._audit_events)
        self._audit_pending = Gauge(
            "broker_audit_pending_events", "Events that wait for their commit.", registry=registry
        )
        self._audit_commit = Histogram(
            "broker_audit_commit_seconds", "Time of one durable commit.", buckets=BUCKETS, registry=registry
        )
        self._audit_failures = Counter("broker_audit_failures", "Commits of the trail that failed.", registry=registry)

    def expect_events(self, *, kinds: Iterable[str]) -> None:
        """Let the counters of these kinds begin at 0."""
        begin(self._audit_events, product(kinds))

    def audit_pending(self, count: int) -> None:
        """State how many events wait for their commit."""
        self._audit_pending.set(count)

    def audit_commit(self, *, kinds: list[str], seconds: float) -> None:
        """Count the events of one commit."""
        self._audit_commit.observe(seconds)
        for kind, count in Counts(kinds).items():
            self._audit_events_by.of(kind).inc(count)

    def audit_failure(self) -> None:
        """Count one failed commit."""
        self._audit_failures.inc()
