"""The use case: an order to the cache, by an administrator or a signed webhook, on record before it is carried out.

An order changes when values are read, and never shows one: it answers with a number alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from broker.audit.event import AuditEvent, EventKind, EventSink, Outcome, ReferenceRecord
from broker.clock import Clock
from broker.errors import NotAdministratorError, OrderRateError
from broker.identity import PeerIdentity
from broker.metrics import Metrics
from broker.pattern import Pattern
from broker.reference import Source

MAX_PATTERNS: Final = 64
_BURST: Final = 20.0
_PER_SECOND: Final = 1.0


class Action(StrEnum):
    """What an order does."""

    INVALIDATE = "invalidate"
    REFRESH = "refresh"


class Way(StrEnum):
    """How an order comes."""

    ADMINISTRATOR = "administrator"
    WEBHOOK = "webhook"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be done, and to the sources of which patterns; None stands for everything."""

    action: Action
    patterns: tuple[Pattern, ...] | None

    def concerns(self, source: Source) -> bool:
        """Tell whether the order is about `source`."""
        return self.patterns is None or any(pattern.touches_source(source) for pattern in self.patterns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an order comes from: the peer's name or the key's, the address and the request's id."""

    name: str
    address: str
    request: str


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


class Remembered(Protocol):
    """What is remembered."""

    async def invalidate(self, concerns: Callable[[Source], bool] | None) -> int:
        """Forget what `concerns` names; return how many that were."""
        ...

    async def renew(self, concerns: Callable[[Source], bool] | None) -> int:
        """Let what `concerns` names be read again; return how many that are."""
        ...


class _Allowance:
    """Allow a burst, and after it so many a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._level, self._at = _BURST, clock.monotonic()

    def take(self) -> None:
        """Use one up. Raises: OrderRateError."""
        now = self._clock.monotonic()
        self._level, self._at = min(_BURST, self._level + (now - self._at) * _PER_SECOND), now
        if self._level < 1:
            message = f"more than {_BURST:g} orders at once, and {_PER_SECOND:g} a second after that; put them together"
            raise OrderRateError(message, retry_after=(1 - self._level) / _PER_SECOND)
        self._level -= 1


class OrderCache:
    """Carry out orders."""

    def __init__(
        self, *, policy: PolicySource, cache: Remembered, trail: EventSink, metrics: Metrics, clock: Clock
    ) -> None:
        """Keep the collaborators."""
        self._policy = policy
        self._cache = cache
        self._trail = trail
        self._metrics = metrics
        # What is refused has an allowance of its own, so that nobody shuts those out who may give orders.
        self._good, self._bad = _Allowance(clock), _Allowance(clock)

    def require_administrator(self, peer: PeerIdentity) -> None:
        """Return when `peer` may give orders; asked before its body is read. Raises: NotAdministratorError."""
        if not self._policy.current.administers(peer):
            message = "this identity may not give orders to the broker; policy names those who may as administrators"
            raise NotAdministratorError(message)

    async def by_administrator(self, order: Order, *, peer: PeerIdentity, origin: Origin) -> int:
        """Carry out the order of `peer`; return how many sources it is about.

        Raises:
            NotAdministratorError: Policy does not name the peer as an administrator.
            OrderRateError: Too many orders came lately.
            AuditUnavailableError: It can't be put on record, so nothing is done.

        """
        self.require_administrator(peer)
        environment = self._policy.current.environment_of(peer) or ""
        return await self._carry_out(order, Way.ADMINISTRATOR, origin, environment)

    async def by_webhook(self, order: Order, *, origin: Origin) -> int:
        """Carry out an order whose signature has been verified; return how many sources it is about.

        Raises:
            OrderRateError: Too many orders came lately.
            AuditUnavailableError: It can't be put on record, so nothing is done.

        """
        return await self._carry_out(order, Way.WEBHOOK, origin, "")

    async def refuse(self, way: Way, *, reason: str, origin: Origin) -> None:
        """Put on record that somebody may not give an order.

        Raises:
            OrderRateError: Too many were refused lately; this one is counted alone.
            AuditUnavailableError: It can't be put on record.

        """
        self._metrics.cache_order(action="none", way=way, outcome="refused")
        self._bad.take()
        await self._record(Outcome.FAILURE, way, origin, reason=reason)

    async def _carry_out(self, order: Order, way: Way, origin: Origin, environment: str) -> int:
        try:
            self._good.take()
        except OrderRateError:
            self._metrics.cache_order(action=order.action, way=way, outcome="limited")
            raise
        await self._record(Outcome.SUCCESS, way, origin, order=order, environment=environment)
        concerns = None if order.patterns is None else order.concerns
        invalidates = order.action is Action.INVALIDATE
        count = await (self._cache.invalidate(concerns) if invalidates else self._cache.renew(concerns))
        self._metrics.cache_order(action=order.action, way=way, outcome="done")
        return count

    async def _record(
        self,
        outcome: Outcome,
        way: Way,
        origin: Origin,
        *,
        order: Order | None = None,
        reason: str = "",
        environment: str = "",
    ) -> None:
        details: dict[str, str | int] = {"way": way.value}
        if way is Way.WEBHOOK and origin.name:
            details["key"] = origin.name
        patterns = () if order is None else order.patterns or ()
        if order is not None:
            details["action"] = order.action.value
            if order.patterns is None:
                details["patterns"] = "everything"
        event = AuditEvent(
            kind=EventKind.CACHE,
            outcome=outcome,
            identity=origin.name if way is Way.ADMINISTRATOR else "",
            environment=environment,
            address=origin.address,
            request=origin.request,
            reason=reason,
            references=tuple(ReferenceRecord(reference=pattern.text, status="ordered") for pattern in patterns),
            details=details,
        )
        await self._trail.append(event)
