"""Every Prometheus series of the broker, in one place.

Every label value comes from a closed set: nothing that a caller, a certificate or a store can choose
becomes a label. The registry is injected, so two brokers in one process do not share series.
"""

import math
import platform
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from broker.errors import TokenRefusedReason

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STATUSES: Final = ("200", "400", "401", "403", "404", "429", "500", "503")
_REFERENCE_OUTCOMES: Final = ("ok", "stale", "denied", "missing", "unavailable", "invalid")
_LOOKUPS: Final = ("hit", "stale", "miss", "joined", "refused")
_ORDER_WAYS: Final = ("administrator", "webhook")
_ALARMS: Final = ("certificate", "pin", "files", "wrapping_token_used", "wrapping_token_of_another_path")
_LEASE_EVENTS: Final = (
    *("minted", "renewed", "revoked", "ended", "lost", "dropped"),
    *("mint_failed", "renew_failed", "revoke_failed"),
)
_STORES: Final = frozenset({"vault"})
_POLICY: Final = "policy"
_RELOAD_OUTCOMES: Final = ("accepted", "refused", "restart_needed")


@dataclass(slots=True)
class Outlook:
    """What memory holds of one provider's sources: how many can still be used, and the wall times of their ends.

    Attributes:
        usable: How many can still be used.
        next_end: When the first of them can't be used any more.
        last_end: When the last of them can't.
        oldest: When the oldest of the secret versions was written, None where no back end says so.

    """

    usable: int = 0
    next_end: float = math.inf
    last_end: float = -math.inf
    oldest: float | None = None

    def add(self, *, end: float, created_at: float | None) -> None:
        """Count one source that can be used until `end`."""
        self.usable += 1
        self.next_end = min(self.next_end, end)
        self.last_end = max(self.last_end, end)
        if created_at is not None:
            self.oldest = created_at if self.oldest is None else min(self.oldest, created_at)


class _OutlookSeries:
    """How long memory lasts for the sources of each provider, and how old its secrets are."""

    def __init__(self, registry: CollectorRegistry) -> None:
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

    def state(self, outlook: Mapping[str, Outlook]) -> None:
        """State what was found for each provider."""
        for provider, one in outlook.items():
            self._cache_usable.labels(provider).set(one.usable)
            self._cache_next_end.labels(provider).set(one.next_end if one.usable else math.nan)
            self._cache_last_end.labels(provider).set(one.last_end if one.usable else math.nan)
            self._oldest_secret.labels(provider).set(math.nan if one.oldest is None else one.oldest)


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
        self._throttled_requests = Counter(
            "broker_throttled_requests", "Requests of identities that ask too often.", registry=registry
        )
        # provider: a scheme of the registry, or `none`; outcome: ok, stale, denied, missing, unavailable, invalid.
        self._references = Counter(
            "broker_references", "References answered.", ["provider", "outcome"], registry=registry
        )
        self._resolve_seconds = Histogram(
            "broker_fetch_seconds", "Time of one read of a source.", ["provider"], buckets=_FAST, registry=registry
        )
        # result: hit, stale, miss, joined, refused.
        self._cache_lookups = Counter("broker_cache_lookups", "Look-ups in the cache.", ["result"], registry=registry)
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
        self._outlook = _OutlookSeries(registry)
        self._declare_upstream(registry)
        self._leases, self._lease_events = _lease_series(registry)
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
        # part: a `PartName` of `reload.py` but the policy; outcome: accepted, refused, restart_needed.
        self._reloads = Counter(
            "broker_configuration_reloads",
            "Parts of the configuration read again.",
            ["part", "outcome"],
            registry=registry,
        )
        self._reload_good = Gauge(
            "broker_configuration_last_reload_successful",
            "1 when a part of the configuration is in force as its files stand.",
            ["part"],
            registry=registry,
        )
        self._policy_loaded = Gauge(
            "broker_policy_loaded_timestamp_seconds", "When the policy in force was loaded.", registry=registry
        )
        self._policy_good = Gauge(
            "broker_policy_last_reload_successful", "1 when the policy file is the policy in force.", registry=registry
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
        self._certificate_starts = Gauge(
            "broker_certificate_start_timestamp_seconds", "Start of validity.", ["certificate"], registry=registry
        )
        self._revocation_list = _revocation_list_series(registry)
        # dependency: audit, policy, certificates, and the schemes of the registry.
        self._ready = Gauge(
            "broker_dependency_ready", "1 when a dependency is ready.", ["dependency"], registry=registry
        )
        _tell_build(registry, version)

    def _declare_upstream(self, registry: CollectorRegistry) -> None:
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
        self._budget_refused = Counter(
            "broker_upstream_refused", "Requests that got no turn within the budget.", ["provider"], registry=registry
        )
        self._breaker = Gauge(
            "broker_upstream_breaker_open",
            "1 while a back end is taken to be away and only probed.",
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
        others = tuple(part for part in parts if part != _POLICY)
        expected: tuple[tuple[Counter | Histogram, Iterable[tuple[str, ...]]], ...] = (
            (self._requests, product(tuple(routes), _STATUSES)),
            (self._request_seconds, product(tuple(routes))),
            (self._references, product(schemes, _REFERENCE_OUTCOMES)),
            (self._cache_lookups, product(_LOOKUPS)),
            (self._cache_orders, product(("invalidate", "refresh"), _ORDER_WAYS, ("done", "limited"))),
            (self._cache_orders, product(("none",), _ORDER_WAYS, ("refused",))),
            (self._alarms, product(_STORES.intersection(schemes), _ALARMS)),
            (self._lease_events, product(_STORES.intersection(schemes), _LEASE_EVENTS)),
            (self._token_checks, product(("ok", *TokenRefusedReason))),
            (self._tokens, product(("issued",))),
            (self._handshakes, product(tuple(handshakes))),
            (self._policy_reloads, product(("accepted", "refused"))),
            (self._reloads, product(others, _RELOAD_OUTCOMES)),
            (self._audit_events, product(tuple(events))),
        )
        for series, labels in expected:
            for values in labels:
                series.labels(*values)
        # What is in force at the start is what the files say.
        self._policy_good.set(1)
        for part in others:
            self._reload_good.labels(part).set(1)

    def request(self, *, route: str, status: int, seconds: float) -> None:
        """Count one HTTP answer."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def throttled(self) -> None:
        """Count one request of an identity that asks too often."""
        self._throttled_requests.inc()

    def references(self, *, provider: str, outcome: str, count: int = 1) -> None:
        """Count answered references."""
        self._references.labels(provider, outcome).inc(count)

    def fetched(self, *, provider: str, seconds: float) -> None:
        """Observe one read of a source."""
        self._resolve_seconds.labels(provider).observe(seconds)

    def cache_lookup(self, result: str) -> None:
        """Count one look-up: hit, stale, miss, joined or refused."""
        self._cache_lookups.labels(result).inc()

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
        self._outlook.state(outlook)

    def upstream_request(self, *, provider: str, operation: str, outcome: str, seconds: float) -> None:
        """Count one request to a back end."""
        self._upstream.labels(provider, operation, outcome).inc()
        self._upstream_seconds.labels(provider).observe(seconds)

    def upstream_budget(self, *, provider: str, per_second: float, throttled: int, refused: int) -> None:
        """State the budget of a back end, and add requests that waited for it, and that got no turn in time."""
        self._budget.labels(provider).set(per_second)
        self._throttled.labels(provider).inc(throttled)
        self._budget_refused.labels(provider).inc(refused)

    def upstream_breaker(self, *, provider: str, is_open: bool) -> None:
        """State whether a back end is taken to be away and only probed."""
        self._breaker.labels(provider).set(1 if is_open else 0)

    def upstream_alarm(self, *, provider: str, alarm: str) -> None:
        """Count what a person has to look at."""
        self._alarms.labels(provider, alarm).inc()

    def clock_skew(self, *, provider: str, seconds: float) -> None:
        """State by how much the wall clock here is ahead of a back end's."""
        self._clock_skew.labels(provider).set(seconds)

    def leases_active(self, count: int) -> None:
        """State how many leases are handed out."""
        self._leases.set(count)

    def lease(self, *, provider: str, event: str) -> None:
        """Count what became of one lease."""
        self._lease_events.labels(provider, event).inc()

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

    def reload(self, *, part: str, outcome: str) -> None:
        """Count one reading of a part of the configuration: accepted, refused or restart_needed."""
        if part == _POLICY:
            reloads, good = self._policy_reloads.labels(outcome), self._policy_good
        else:
            reloads, good = self._reloads.labels(part, outcome), self._reload_good.labels(part)
        reloads.inc()
        good.set(1 if outcome == "accepted" else 0)

    def policy_loaded(self, *, now: float) -> None:
        """State when the policy in force was loaded."""
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

    def certificate(self, *, certificate: str, not_before: float, not_after: float) -> None:
        """State when a certificate begins and ends."""
        self._certificate_starts.labels(certificate).set(not_before)
        self._certificates.labels(certificate).set(not_after)

    def revocation_list(self, *, next_update: float) -> None:
        """State when the first revocation list ends."""
        self._revocation_list.set(next_update)

    def ready(self, *, dependency: str, ready: bool) -> None:
        """State whether a dependency is ready."""
        self._ready.labels(dependency).set(1 if ready else 0)


def _lease_series(registry: CollectorRegistry) -> tuple[Gauge, Counter]:
    active = Gauge("broker_leases_active", "Leases that are handed out.", registry=registry)
    # event: one of `_LEASE_EVENTS`.
    events = Counter("broker_lease_events", "What became of leases.", ["provider", "event"], registry=registry)
    return active, events


def _revocation_list_series(registry: CollectorRegistry) -> Gauge:
    series = Gauge(
        "broker_revocation_list_next_update_timestamp_seconds",
        "When the first revocation list of the agents' authorities ends; NaN: none is used.",
        registry=registry,
    )
    series.set(math.nan)
    return series


def _tell_build(registry: CollectorRegistry, version: str) -> None:
    build = Gauge("broker_build_info", "What runs.", ["version", "python", "openssl"], registry=registry)
    build.labels(version, platform.python_version(), ssl.OPENSSL_VERSION.split()[1]).set(1)
