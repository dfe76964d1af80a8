"""Every Prometheus series of the broker, in one place.

Every label value comes from a closed set: nothing that a caller, a certificate or a store can choose
becomes a label. The registry is injected, so two brokers in one process do not share series.
"""

import platform
import ssl
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Hold and update the series."""

    def __init__(self, *, registry: CollectorRegistry, version: str) -> None:
        """Register every series with `registry`."""
        self.registry = registry
        # route: the template of a declared route, or `other`; status: the HTTP status, three digits.
        self._requests = Counter("broker_requests", "HTTP requests answered.", ["route", "status"], registry=registry)
        self._request_seconds = Histogram(
            "broker_request_seconds",
            "Time from a request's head to its answer.",
            ["route"],
            buckets=_FAST,
            registry=registry,
        )
        # provider: a scheme of the registry, or `none`; outcome: ok, stale, denied, missing, unavailable, invalid.
        self._references = Counter(
            "broker_references", "References answered.", ["provider", "outcome"], registry=registry
        )
        self._resolve_seconds = Histogram(
            "broker_fetch_seconds", "Time of one read of a source.", ["provider"], buckets=_FAST, registry=registry
        )
        # result: hit, stale, miss, joined.
        self._cache_lookups = Counter("broker_cache_lookups", "Look-ups in the cache.", ["result"], registry=registry)
        self._cache_entries = Gauge("broker_cache_entries", "Sources held in the cache.", registry=registry)
        self._cache_bytes = Gauge("broker_cache_bytes", "Bytes of values held in the cache.", registry=registry)
        self._cache_evictions = Counter("broker_cache_evictions", "Sources dropped for room.", registry=registry)
        # operation: read, login, renew, lookup, mounts, health; outcome: ok, denied, missing, unavailable, invalid.
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
            buckets=_FAST,
            registry=registry,
        )
        self._budget = Gauge(
            "broker_upstream_budget_per_second",
            "Requests a second that a back end is asked at most.",
            ["provider"],
            registry=registry,
        )
        self._throttled = Counter(
            "broker_upstream_throttled", "Requests that waited for the budget.", ["provider"], registry=registry
        )
        # outcome: issued, or an OAuth error code.
        self._tokens = Counter("broker_tokens", "Token requests answered.", ["outcome"], registry=registry)
        # outcome: ok, or a `TokenRefusedReason`.
        self._token_checks = Counter(
            "broker_token_checks", "Presented tokens verified.", ["outcome"], registry=registry
        )
        # outcome: ok, or a handshake reason of `web/tls.py`.
        self._handshakes = Counter("broker_handshakes", "TLS handshakes of agents.", ["outcome"], registry=registry)
        self._connections = Gauge("broker_connections", "Open connections of agents.", registry=registry)
        # outcome: accepted, refused.
        self._policy_reloads = Counter("broker_policy_reloads", "Policy files read.", ["outcome"], registry=registry)
        self._policy_loaded = Gauge(
            "broker_policy_loaded_timestamp_seconds", "When the policy in force was loaded.", registry=registry
        )
        self._audit_events = Counter("broker_audit_events", "Events made durable.", ["kind"], registry=registry)
        self._audit_pending = Gauge(
            "broker_audit_pending_events", "Events that wait for their commit.", registry=registry
        )
        self._audit_commit = Histogram(
            "broker_audit_commit_seconds", "Time of one durable commit.", buckets=_FAST, registry=registry
        )
        self._audit_failures = Counter("broker_audit_failures", "Commits of the trail that failed.", registry=registry)
        # certificate: server, client_ca.
        self._certificates = Gauge(
            "broker_certificate_expiry_timestamp_seconds", "End of validity.", ["certificate"], registry=registry
        )
        # dependency: audit, policy, certificates, and the schemes of the registry.
        self._ready = Gauge(
            "broker_dependency_ready", "1 when a dependency is ready.", ["dependency"], registry=registry
        )
        build = Gauge("broker_build_info", "What runs.", ["version", "python", "openssl"], registry=registry)
        build.labels(version, platform.python_version(), ssl.OPENSSL_VERSION.split()[1]).set(1)

    def request(self, *, route: str, status: int, seconds: float) -> None:
        """Count one HTTP answer."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def references(self, *, provider: str, outcome: str, count: int = 1) -> None:
        """Count answered references."""
        self._references.labels(provider, outcome).inc(count)

    def fetched(self, *, provider: str, seconds: float) -> None:
        """Observe one read of a source."""
        self._resolve_seconds.labels(provider).observe(seconds)

    def cache_lookup(self, result: str) -> None:
        """Count one look-up: hit, stale, miss or joined."""
        self._cache_lookups.labels(result).inc()

    def cache_size(self, *, entries: int, size: int, evicted: int = 0) -> None:
        """State what the cache holds."""
        self._cache_entries.set(entries)
        self._cache_bytes.set(size)
        if evicted:
            self._cache_evictions.inc(evicted)

    def upstream_request(self, *, provider: str, operation: str, outcome: str, seconds: float) -> None:
        """Count one request to a back end."""
        self._upstream.labels(provider, operation, outcome).inc()
        self._upstream_seconds.labels(provider).observe(seconds)

    def upstream_budget(self, *, provider: str, per_second: float, throttled: int) -> None:
        """State the budget of a back end, and add requests that waited for it."""
        self._budget.labels(provider).set(per_second)
        self._throttled.labels(provider).inc(throttled)

    def token(self, outcome: str) -> None:
        """Count one answered token request."""
        self._tokens.labels(outcome).inc()

    def token_check(self, outcome: str) -> None:
        """Count one verification of a presented token."""
        self._token_checks.labels(outcome).inc()

    def handshake(self, outcome: str) -> None:
        """Count one TLS handshake."""
        self._handshakes.labels(outcome).inc()

    def connections(self, count: int) -> None:
        """State the open connections."""
        self._connections.set(count)

    def policy_reload(self, *, accepted: bool, now: float) -> None:
        """Count one reading of the policy file."""
        self._policy_reloads.labels("accepted" if accepted else "refused").inc()
        if accepted:
            self._policy_loaded.set(now)

    def audit_pending(self, count: int) -> None:
        """State how many events wait for their commit."""
        self._audit_pending.set(count)

    def audit_commit(self, *, kinds: list[str], seconds: float) -> None:
        """Count the events of one commit."""
        self._audit_commit.observe(seconds)
        for kind in kinds:
            self._audit_events.labels(kind).inc()

    def audit_failure(self) -> None:
        """Count one failed commit."""
        self._audit_failures.inc()

    def certificate(self, *, certificate: str, not_after: float) -> None:
        """State when a certificate ends."""
        self._certificates.labels(certificate).set(not_after)

    def ready(self, *, dependency: str, ready: bool) -> None:
        """State whether a dependency is ready."""
        self._ready.labels(dependency).set(1 if ready else 0)
