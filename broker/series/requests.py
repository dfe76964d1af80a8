"""What agents ask for, and what they are answered."""

from collections.abc import Iterable
from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from broker.series.base import BUCKETS, Children, begin

_STATUSES: Final = ("200", "400", "401", "403", "404", "429", "500", "503")
_REFERENCE_OUTCOMES: Final = ("ok", "stale", "denied", "missing", "unavailable", "invalid")


class RequestSeries:
    """Count requests and the references in them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series."""
        # route: the template of a declared route, or `other`; status: the HTTP status, three digits.
        self._requests = Counter("broker_requests", "HTTP requests answered.", ["route", "status"], registry=registry)
        self._request_seconds = Histogram(
            "broker_request_seconds",
            "Time from a request's head to its answer.",
            ["route"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._throttled_requests = Counter(
            "broker_throttled_requests", "Requests of identities that ask too often.", registry=registry
        )
        # provider: a scheme of the registry, or `none`; outcome: ok, stale, denied, missing, unavailable, invalid.
        self._references = Counter(
            "broker_references", "References answered.", ["provider", "outcome"], registry=registry
        )
        self._fetch_seconds = Histogram(
            "broker_fetch_seconds", "Time of one read of a source.", ["provider"], buckets=BUCKETS, registry=registry
        )
        self._requests_by = Children(self._requests)
        self._request_seconds_by = Children(self._request_seconds)
        self._references_by = Children(self._references)
        self._fetch_seconds_by = Children(self._fetch_seconds)

    def expect_requests(self, *, routes: Iterable[str], schemes: Iterable[str]) -> None:
        """Let the counters of these routes and schemes begin at 0."""
        known = tuple(routes)
        begin(self._requests, product(known, _STATUSES))
        begin(self._request_seconds, product(known))
        begin(self._references, product(schemes, _REFERENCE_OUTCOMES))

    def request(self, *, route: str, status: int, seconds: float) -> None:
        """Count one HTTP answer."""
        self._requests_by.of(route, status).inc()
        self._request_seconds_by.of(route).observe(seconds)

    def throttled(self) -> None:
        """Count one request of an identity that asks too often."""
        self._throttled_requests.inc()

    def references(self, *, provider: str, outcome: str, count: int = 1) -> None:
        """Count answered references."""
        self._references_by.of(provider, outcome).inc(count)

    def fetched(self, *, provider: str, seconds: float) -> None:
        """Observe one read of a source."""
        self._fetch_seconds_by.of(provider).observe(seconds)
