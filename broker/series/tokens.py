"""Tokens that are issued, and tokens that are shown."""

from itertools import product

from prometheus_client import CollectorRegistry, Counter

from broker.errors import TokenRefusedReason
from broker.series.base import begin


class TokenSeries:
    """Count tokens by what became of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series."""
        # outcome: issued, or an OAuth error code.
        self._tokens = Counter("broker_tokens", "Token requests answered.", ["outcome"], registry=registry)
        # outcome: ok, or a `TokenRefusedReason`.
        self._token_checks = Counter(
            "broker_token_checks", "Presented tokens verified.", ["outcome"], registry=registry
        )

    def expect_tokens(self) -> None:
        """Let the counters begin at 0."""
        begin(self._token_checks, product(("ok", *TokenRefusedReason)))
        begin(self._tokens, product(("issued",)))

    def token(self, outcome: str) -> None:
        """Count one answered token request."""
        self._tokens.labels(outcome).inc()

    def token_check(self, outcome: str) -> None:
        """Count one verification of a presented token."""
        self._token_checks.labels(outcome).inc()
