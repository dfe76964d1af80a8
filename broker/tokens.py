"""Scoped, short-lived, certificate-bound access tokens (RFC 9068, RFC 8705). Pure.

Being written; see the contract.
"""

from dataclasses import dataclass

from broker.pattern import Pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """What a verified token says; made only by `TokenVerifier.verify` and the issuer."""

    token_id: str
    subject: str
    environment: str
    scope: tuple[Pattern, ...]
    thumbprint: str
    issued_at: int
    expires_at: int
