"""The use case: an identity in, a short-lived token out, on record before it leaves."""

import secrets
from dataclasses import dataclass
from typing import Final

from broker.audit.event import AuditEvent, EventKind, EventSink, Outcome
from broker.clock import Clock
from broker.errors import BrokerError, InvalidClientError, ScopeRefusedError, UnauthorizedClientError
from broker.identity import PeerIdentity
from broker.pattern import Pattern
from broker.policy.current import CurrentPolicy
from broker.scope import format_scope, parse_scope
from broker.secret import SecretValue
from broker.series.tokens import TokenSeries
from broker.tokens import MAX_TOKEN_CHARACTERS, SigningKey, TokenClaims, sign_token

_TOKEN_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A token for its holder; `expires_in` is in seconds."""

    access_token: SecretValue
    expires_in: int
    scope: str


class IssueToken:
    """Answer one request for a token."""

    def __init__(
        self,
        *,
        policy: CurrentPolicy,
        signer: SigningKey,
        trail: EventSink,
        metrics: TokenSeries,
        clock: Clock,
        lifetime_seconds: int,
        issuer: str,
        audience: str,
    ) -> None:
        """Keep the collaborators."""
        self._policy = policy
        self._signer = signer
        self._trail = trail
        self._metrics = metrics
        self._clock = clock
        self._lifetime = lifetime_seconds
        self._issuer = issuer
        self._audience = audience

    async def issue(
        self, *, peer: PeerIdentity, client_id: str, unverified_scope: str, address: str, request: str
    ) -> IssuedToken:
        """Return a token for `peer` that is bound to its certificate, after that is on record.

        Raises:
            InvalidClientError: `client_id` is not the certificate's identity (RFC 8705 §2).
            UnauthorizedClientError: Policy does not know the identity.
            ScopeRefusedError: The scope is malformed, or more than policy gives.
            AuditUnavailableError: It can't be put on record.

        """
        try:
            claims = self._claims(peer, client_id, unverified_scope)
            token = sign_token(claims, key=self._signer, issuer=self._issuer, audience=self._audience)
            if token.size > MAX_TOKEN_CHARACTERS:
                message = "the scope is too long for a token; ask for fewer or wider patterns"
                raise ScopeRefusedError(message)
        except BrokerError as error:
            self._metrics.token(error.code)
            await self._record(peer, address, request, reason=error.code)
            raise
        await self._record(peer, address, request, claims=claims)
        self._metrics.token("issued")
        return IssuedToken(
            access_token=token, expires_in=claims.expires_at - claims.issued_at, scope=format_scope(claims.scope)
        )

    def count_refusal(self, error: str) -> None:
        """Count a request that was refused before it could be asked here, by its OAuth error code."""
        self._metrics.token(error)

    def _claims(self, peer: PeerIdentity, client_id: str, unverified_scope: str) -> TokenClaims:
        if client_id != peer.name:
            message = "client_id has to be the identity of the client certificate"
            raise InvalidClientError(message)
        policy = self._policy.current
        if not policy.recognises(peer):
            message = "this identity may not have tokens"
            raise UnauthorizedClientError(message)
        scope = parse_scope(unverified_scope)
        grants = policy.grants(peer)
        if not all(_within(pattern, grants) for pattern in scope):
            message = "the scope asks for more than policy gives this identity"
            raise ScopeRefusedError(message)
        now = int(self._clock.now())
        # A token is useless once its certificate is not valid any more, and should not claim otherwise.
        expires = min(now + self._lifetime, int(peer.not_after))
        return TokenClaims(
            token_id=secrets.token_urlsafe(_TOKEN_ID_BYTES),
            subject=peer.name,
            environment=policy.environment_of(peer) or "",
            scope=scope,
            thumbprint=peer.thumbprint,
            issued_at=now,
            expires_at=max(expires, now + 1),
        )

    async def _record(
        self, peer: PeerIdentity, address: str, request: str, *, claims: TokenClaims | None = None, reason: str = ""
    ) -> None:
        event = AuditEvent(
            kind=EventKind.TOKEN,
            outcome=Outcome.SUCCESS if claims else Outcome.FAILURE,
            identity=peer.name,
            environment=self._policy.current.environment_of(peer) or "",
            address=address,
            request=request,
            reason=reason,
            token=claims.token_id if claims else "",
            details={"scope": format_scope(claims.scope), "expires": claims.expires_at} if claims else {},
        )
        await self._trail.append(event)


def _within(pattern: Pattern, grants: tuple[Pattern, ...]) -> bool:
    return any(grant.covers_pattern(pattern) for grant in grants)
