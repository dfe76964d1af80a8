"""Agents' connections, and the certificates that they rest on."""

import math
from collections.abc import Callable, Iterable
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge

from broker.series.base import begin


class ConnectionSeries:
    """Count handshakes, and state what is open and until when the certificates last."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series."""
        # outcome: ok, or a handshake reason of `web/tls/handshake.py`.
        self._handshakes = Counter("broker_handshakes", "TLS handshakes of agents.", ["outcome"], registry=registry)
        self._connections = Gauge("broker_connections", "Open connections of agents.", registry=registry)
        self._connections_gave_way = Counter(
            "broker_connections_gave_way",
            "Idle connections of agents that were ended because another waited for a place.",
            registry=registry,
        )
        # certificate: server, client_ca.
        self._certificates = Gauge(
            "broker_certificate_expiry_timestamp_seconds", "End of validity.", ["certificate"], registry=registry
        )
        self._certificate_starts = Gauge(
            "broker_certificate_start_timestamp_seconds", "Start of validity.", ["certificate"], registry=registry
        )
        self._revocation_list = Gauge(
            "broker_revocation_list_next_update_timestamp_seconds",
            "When the first revocation list of the agents' authorities ends; NaN: none is used.",
            registry=registry,
        )
        self._revocation_list.set(math.nan)

    def expect_handshakes(self, *, outcomes: Iterable[str]) -> None:
        """Let the counters of these outcomes begin at 0."""
        begin(self._handshakes, product(outcomes))

    def handshake(self, outcome: str) -> None:
        """Count one TLS handshake."""
        self._handshakes.labels(outcome).inc()

    def connection_gave_way(self) -> None:
        """Count one idle connection that was ended for another."""
        self._connections_gave_way.inc()

    def connections_from(self, count: Callable[[], int]) -> None:
        """State the open connections, asked of `count` whenever somebody looks: they end without a word."""
        self._connections.set_function(count)

    def certificate(self, *, certificate: str, not_before: float, not_after: float) -> None:
        """State when a certificate begins and ends."""
        self._certificate_starts.labels(certificate).set(not_before)
        self._certificates.labels(certificate).set(not_after)

    def revocation_list(self, *, next_update: float) -> None:
        """State when the first revocation list ends."""
        self._revocation_list.set(next_update)
