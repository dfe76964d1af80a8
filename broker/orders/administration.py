"""What every order has in common: who may give it, how many are taken, and that it is on record first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from broker.audit.event import AuditEvent, EventKind, EventSink, Outcome, ReferenceRecord
from broker.clock import Clock
from broker.errors import NotAdministratorError, OrderRateError
from broker.identity import PeerIdentity
from broker.limits.token_bucket import TokenBucket
from broker.pattern import Pattern

MAX_PATTERNS: Final = 64
_BURST: Final = 20.0
_PER_SECOND: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an order comes from: its peer or the key that signed it, the address and the request's id."""

    identity: str = ""
    key: str = ""
    address: str
    request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the trail says of an order that is given or refused.

    Attributes:
        kind: What it is about.
        origin: Where it comes from.
        environment: That of an administrator.
        details: Which order it is, in words and numbers.
        patterns: The references that it names.

    """

    kind: EventKind
    origin: Origin
    environment: str = ""
    details: Mapping[str, str | int]
    patterns: Sequence[Pattern] = ()

    def event(self, outcome: Outcome, reason: str) -> AuditEvent:
        """Return the event for the trail."""
        return AuditEvent(
            kind=self.kind,
            outcome=outcome,
            identity=self.origin.identity,
            environment=self.environment,
            address=self.origin.address,
            request=self.origin.request,
            reason=reason,
            references=tuple(ReferenceRecord(reference=pattern.text, status="ordered") for pattern in self.patterns),
            details=dict(self.details),
        )


class Policy(Protocol):
    """What this use case asks of a policy."""

    def administers(self, identity: PeerIdentity, /) -> bool:
        """Tell whether `identity` may give orders."""
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


class Administration:
    """Let orders be given, all together as many as one person or one script needs."""

    def __init__(self, *, policy: PolicySource, trail: EventSink, clock: Clock) -> None:
        """Ask the policy in force each time, and keep every order in `trail`."""
        self._policy = policy
        self._trail = trail
        self._clock = clock
        # What is refused has a bucket of its own, so that nobody shuts those out who may give orders.
        self._good, self._bad = (
            TokenBucket.full(burst=_BURST, per_second=_PER_SECOND, now=clock.monotonic()) for _ in range(2)
        )

    def require(self, peer: PeerIdentity) -> str:
        """Return the environment of `peer`, who may give orders. Raises: NotAdministratorError."""
        policy = self._policy.current
        if not policy.administers(peer):
            message = "this identity may not give orders to the broker; policy names those who may as administrators"
            raise NotAdministratorError(message)
        return policy.environment_of(peer) or ""

    async def accept(self, entry: Entry, *, reason: str = "") -> None:
        """Return when an order of somebody who may give it is on record, so that it may be carried out.

        Raises:
            OrderRateError: Too many orders came lately.
            AuditUnavailableError: It can't be put on record, so nothing may be done.

        """
        self._take(self._good)
        await self._trail.append(entry.event(Outcome.SUCCESS, reason))

    async def refuse(self, entry: Entry, *, reason: str) -> None:
        """Return when it is on record that somebody may not give an order.

        Raises:
            OrderRateError: Too many were refused lately; this one is not on record.
            AuditUnavailableError: It can't be put on record.

        """
        self._take(self._bad)
        await self._trail.append(entry.event(Outcome.FAILURE, reason))

    def _take(self, bucket: TokenBucket) -> None:
        wait = bucket.take(self._clock.monotonic())
        if wait:
            message = f"more than {_BURST:g} orders at once, and {_PER_SECOND:g} a second after that; put them together"
            raise OrderRateError(message, retry_after=wait)
