"""The use case: an order to the cache, by an administrator or a signed webhook, on record before it is carried out.

An order changes when values are read, and never shows one: it answers with a number alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from broker.audit.event import EventKind
from broker.errors import OrderRateError
from broker.identity import PeerIdentity
from broker.metrics import Metrics
from broker.orders.administration import Administration, Entry, Origin
from broker.pattern import Pattern
from broker.reference import Source


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


class Remembered(Protocol):
    """What is remembered."""

    async def invalidate(self, concerns: Callable[[Source], bool] | None) -> int:
        """Forget what `concerns` names; return how many that were."""
        ...

    async def renew(self, concerns: Callable[[Source], bool] | None) -> int:
        """Let what `concerns` names be read again; return how many that are."""
        ...


class OrderCache:
    """Carry out orders."""

    def __init__(self, *, administration: Administration, cache: Remembered, metrics: Metrics) -> None:
        """Keep the collaborators."""
        self._administration = administration
        self._cache = cache
        self._metrics = metrics

    async def by_administrator(self, order: Order, *, peer: PeerIdentity, origin: Origin) -> int:
        """Carry out the order of `peer`; return how many sources it is about.

        Raises:
            NotAdministratorError: Policy does not name the peer as an administrator.
            OrderRateError: Too many orders came lately.
            AuditUnavailableError: It can't be put on record, so nothing is done.

        """
        environment = self._administration.require(peer)
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
        entry = Entry(kind=EventKind.CACHE, origin=origin, details=_given(way, origin))
        await self._administration.refuse(entry, reason=reason)

    async def _carry_out(self, order: Order, way: Way, origin: Origin, environment: str) -> int:
        entry = Entry(
            kind=EventKind.CACHE,
            origin=origin,
            environment=environment,
            details={**_given(way, origin), **_ordered(order)},
            patterns=order.patterns or (),
        )
        try:
            await self._administration.accept(entry)
        except OrderRateError:
            self._metrics.cache_order(action=order.action, way=way, outcome="limited")
            raise
        concerns = None if order.patterns is None else order.concerns
        invalidates = order.action is Action.INVALIDATE
        count = await (self._cache.invalidate(concerns) if invalidates else self._cache.renew(concerns))
        self._metrics.cache_order(action=order.action, way=way, outcome="done")
        return count


def _given(way: Way, origin: Origin) -> dict[str, str]:
    return {"way": way.value, **({"key": origin.key} if origin.key else {})}


def _ordered(order: Order) -> dict[str, str]:
    return {"action": order.action.value, **({"patterns": "everything"} if order.patterns is None else {})}
