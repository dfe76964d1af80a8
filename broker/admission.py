"""Who asks, proved before anything is answered: by certificate, policy and token, and not more often than it may."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from broker.audit.event import AuditEvent, EventKind, EventSink, Outcome, ReferenceRecord
from broker.clock import Clock
from broker.errors import (
    IdentityRefusedError,
    IdentityRefusedReason,
    ThrottledError,
    TokenRefusedError,
    TokenRefusedReason,
)
from broker.identity import IdentityKind, PeerIdentity
from broker.limits.throttle import Throttle
from broker.metrics import Metrics
from broker.peer_address import Address
from broker.policy.decision import Context, Decision
from broker.reference import Reference
from broker.tokens import TokenClaims
from broker.trace_context import audit_details


class Policy(Protocol):
    """What this use case asks of a policy."""

    def decide_all(
        self, *, identity: PeerIdentity, references: Sequence[Reference], context: Context
    ) -> Sequence[Decision]:
        """Decide about each reference of one request."""
        ...

    def recognises(self, identity: PeerIdentity, /) -> bool:
        """Tell whether policy names this identity."""
        ...

    def environment_of(self, identity: PeerIdentity, /) -> str | None:
        """Return the one environment of this identity."""
        ...


class PolicySource(Protocol):
    """Holds the policy in force."""

    @property
    def current(self) -> Policy:
        """Return the policy in force now."""
        ...


class Verifier(Protocol):
    """Turns a presented token into claims."""

    def verify(self, unverified_token: str, /, *, peer: PeerIdentity, now: float) -> TokenClaims:
        """Verify everything about a token. Raises: TokenRefusedError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Who asks, once it is proved; `ends_at` is the wall time at which the certificate or the token ends."""

    environment: str
    address: str
    request: str
    token: str
    context: Context
    peer: PeerIdentity
    ends_at: float

    def event(
        self, kind: EventKind, outcome: Outcome, *, reason: str, references: Iterable[ReferenceRecord]
    ) -> AuditEvent:
        """Return the event of what became of what it asked for."""
        return AuditEvent(
            kind=kind,
            outcome=outcome,
            identity=self.peer.name,
            environment=self.environment,
            address=self.address,
            request=self.request,
            reason=reason,
            token=self.token,
            references=tuple(references),
            details=audit_details(),
        )


class Admission:
    """Prove who asks."""

    def __init__(
        self,
        *,
        policy: PolicySource,
        verifier: Verifier,
        throttle: Throttle,
        trail: EventSink,
        strangers: EventSink,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """Keep the collaborators; who has no name is put on record by `strangers`."""
        self._policy = policy
        self._verifier = verifier
        self._throttle = throttle
        self._trail = trail
        self._strangers = strangers
        self._metrics = metrics
        self._clock = clock

    async def admit(
        self, *, peer: PeerIdentity, unverified_token: str | None, address: Address, request: str
    ) -> Admitted:
        """Return who asks, or put on record who was refused.

        Raises:
            IdentityRefusedError: The certificate names nobody, and policy does not know its fingerprint.
            TokenRefusedError: The token proves nothing.
            AuditUnavailableError: The refusal can't be put on record.

        """
        policy = self._policy.current
        now = self._clock.now()
        environment = policy.environment_of(peer) or ""
        try:
            _check_named(policy, peer)
            claims = None if unverified_token is None else self._verify(unverified_token, peer, environment, now)
        except (IdentityRefusedError, TokenRefusedError) as error:
            await self._record(error.reason, EventKind.AUTHENTICATION, str(address), request, peer.name, environment)
            raise
        return Admitted(
            environment=environment,
            address=str(address),
            request=request,
            token="" if claims is None else claims.token_id,
            context=Context(address=address, now=now, scope=None if claims is None else claims.scope),
            peer=peer,
            ends_at=peer.not_after if claims is None else min(peer.not_after, claims.expires_at),
        )

    async def slow(self, peer: PeerIdentity, kind: EventKind, *, address: Address, request: str) -> None:
        """Return when `peer` may ask now; whatever it asks for, it is one identity with one allowance.

        Raises:
            ThrottledError: It asks too often.
            AuditUnavailableError: That can't be put on record.

        """
        try:
            self._throttle.take(peer.name)
        except ThrottledError as error:
            self._metrics.throttled()
            if error.is_news:
                environment = self._policy.current.environment_of(peer) or ""
                await self._record(error.code, kind, str(address), request, peer.name, environment)
            raise

    def weigh(self, peer: PeerIdentity, *, size: int) -> None:
        """Count a request of `peer` by the `size` of its body, in bytes, before anybody reads what it says."""
        self._throttle.weigh(peer.name, size)

    async def refuse_identity(self, error: IdentityRefusedError, *, address: Address, request: str) -> None:
        """Put on record that a connection's certificate is no identity.

        Raises:
            AuditUnavailableError: It can't be put on record.

        """
        event = _refusal(error.reason, EventKind.AUTHENTICATION, address=str(address), request=request)
        await self._strangers.append(event)

    def _verify(self, unverified_token: str, peer: PeerIdentity, environment: str, now: float) -> TokenClaims:
        try:
            claims = self._verifier.verify(unverified_token, peer=peer, now=now)
            _check_environment(claims, environment)
        except TokenRefusedError as error:
            self._metrics.token_check(error.reason)
            raise
        self._metrics.token_check("ok")
        return claims

    async def _record(
        self, reason: str, kind: EventKind, address: str, request: str, identity: str, environment: str
    ) -> None:
        event = _refusal(reason, kind, address=address, request=request)
        await self._trail.append(replace(event, identity=identity, environment=environment))


def _check_named(policy: Policy, peer: PeerIdentity) -> None:
    if peer.kind is IdentityKind.FINGERPRINT and not policy.recognises(peer):
        message = "the certificate has no SAN, and policy does not name its fingerprint"
        raise IdentityRefusedError(message, reason=IdentityRefusedReason.NO_SAN)


def _check_environment(claims: TokenClaims, environment: str) -> None:
    if claims.environment != environment:
        message = "the token belongs to another environment than your certificate; ask for a new one"
        raise TokenRefusedError(message, reason=TokenRefusedReason.ENVIRONMENT)


def _refusal(reason: str, kind: EventKind, *, address: str, request: str) -> AuditEvent:
    return AuditEvent(kind=kind, outcome=Outcome.FAILURE, address=address, request=request, reason=str(reason))
