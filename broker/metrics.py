"""Every Prometheus series of the broker, put together from the areas of `series/`.

Every label value comes from a closed set: nothing that a caller, a certificate or a store can choose
becomes a label. The registry is injected, so two brokers in one process do not share series.
"""

import platform
import ssl
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge

from broker.series.audit import AuditSeries
from broker.series.cache import CacheSeries, Outlook
from broker.series.connections import ConnectionSeries
from broker.series.in_flight import InFlightSeries
from broker.series.memory import MemorySeries
from broker.series.reloads import ReloadSeries
from broker.series.requests import RequestSeries
from broker.series.tokens import TokenSeries
from broker.series.upstream import BudgetSeries, LeaseSeries, UpstreamSeries

__all__ = ["Metrics", "Outlook"]


class Metrics(
    RequestSeries,
    TokenSeries,
    CacheSeries,
    MemorySeries,
    InFlightSeries,
    UpstreamSeries,
    BudgetSeries,
    LeaseSeries,
    ConnectionSeries,
    ReloadSeries,
    AuditSeries,
):
    """All areas in one object, for the composition root to hand out; who counts asks for its own area alone.

    The areas are bases and not parts, so that a count on the way of a request costs no call more.
    """

    def __init__(self, *, registry: CollectorRegistry, version: str) -> None:
        """Register every series with `registry`."""
        self.registry = registry
        RequestSeries.__init__(self, registry)
        TokenSeries.__init__(self, registry)
        CacheSeries.__init__(self, registry)
        MemorySeries.__init__(self, registry)
        InFlightSeries.__init__(self, registry)
        UpstreamSeries.__init__(self, registry)
        BudgetSeries.__init__(self, registry)
        LeaseSeries.__init__(self, registry)
        ConnectionSeries.__init__(self, registry)
        ReloadSeries.__init__(self, registry)
        AuditSeries.__init__(self, registry)
        # dependency: audit, policy, certificates, and the schemes of the registry.
        self._ready = Gauge(
            "broker_dependency_ready", "1 when a dependency is ready.", ["dependency"], registry=registry
        )
        self._start = Gauge("broker_start_timestamp_seconds", "When the broker started.", registry=registry)
        build = Gauge("broker_build_info", "What runs.", ["version", "python", "openssl"], registry=registry)
        build.labels(version, platform.python_version(), ssl.OPENSSL_VERSION.split()[1]).set(1)

    def expect(
        self,
        *,
        providers: Iterable[str],
        routes: Iterable[str],
        handshakes: Iterable[str],
        events: Iterable[str],
        parts: Iterable[str],
    ) -> None:
        """Let the counters of these closed sets begin at 0, so that a rate sees their first increase too."""
        schemes = (*providers, "none")
        self.expect_requests(routes=routes, schemes=schemes)
        self.expect_tokens()
        self.expect_cache()
        self.expect_upstream(schemes=schemes)
        self.expect_limits(schemes=schemes)
        self.expect_leases(schemes=schemes)
        self.expect_handshakes(outcomes=handshakes)
        self.expect_reloads(parts=parts)
        self.expect_events(kinds=events)

    def started(self, *, now: float) -> None:
        """State when the broker started, from when on its counters count."""
        self._start.set(now)

    def ready(self, *, dependency: str, ready: bool) -> None:
        """State whether a dependency is ready."""
        self._ready.labels(dependency).set(1 if ready else 0)
