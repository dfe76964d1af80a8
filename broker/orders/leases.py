"""The use case: an administrator takes leases back, on record before it is done. No value is shown."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from broker.audit.event import EventKind
from broker.errors import LeaseUnknownError, OrderRateError
from broker.identity import PeerIdentity
from broker.leases.record import LeaseRecord
from broker.leases.upkeep import Withdrawal
from broker.orders.administration import Administration, Entry, Origin
from broker.pattern import Pattern
from broker.reference import parse
from broker.series.upstream import LeaseSeries

_WAIT_SECONDS: Final = 10.0
_REVOKE: Final = {"action": "revoke"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which leases an order is about: one, those of an identity, those of references, or all; none unless it says."""

    lease: str = ""
    identity: str = ""
    patterns: tuple[Pattern, ...] = ()
    everything: bool = False

    def concerns(self, record: LeaseRecord) -> bool:
        """Tell whether the order is about the lease of `record`."""
        if self.lease:
            return record.id == self.lease
        if self.identity:
            return record.identity == self.identity
        if self.everything:
            return True
        source = parse(record.source).source
        return any(pattern.touches_source(source) for pattern in self.patterns)


class Revocable(Protocol):
    """The leases, for whoever may take them all back."""

    async def take_back(self, concerns: Callable[[LeaseRecord], bool], /, *, seconds: float) -> Withdrawal:
        """Hand out none of them any longer, and revoke them, waiting at most `seconds` for that."""
        ...


class OrderLeases:
    """Carry out orders about leases."""

    def __init__(self, *, administration: Administration, leases: Revocable, metrics: LeaseSeries) -> None:
        """Keep the collaborators."""
        self._administration = administration
        self._leases = leases
        self._metrics = metrics

    async def revoke(self, selection: Selection, *, peer: PeerIdentity, origin: Origin) -> Withdrawal:
        """Take back the leases that `selection` names; what is not gone after ten seconds is tried until it is.

        Raises:
            NotAdministratorError: Policy does not name the peer as an administrator.
            OrderRateError: Too many orders came lately.
            AuditUnavailableError: It can't be put on record, so nothing is done.
            LeaseUnknownError: It names one lease, and there is none of that id.

        """
        entry = Entry(
            kind=EventKind.LEASE,
            origin=origin,
            environment=self._administration.require(peer),
            details={**_REVOKE, **_named(selection)},
            patterns=selection.patterns,
        )
        try:
            await self._administration.accept(entry, reason="ordered")
        except OrderRateError:
            self._metrics.lease_order(outcome="limited")
            raise
        done = await self._leases.take_back(selection.concerns, seconds=_WAIT_SECONDS)
        self._metrics.lease_order(outcome="done")
        if selection.lease and not done.leases:
            message = "there is no such lease; it may have ended"
            raise LeaseUnknownError(message)
        return done

    async def refuse(self, *, reason: str, origin: Origin) -> None:
        """Put on record that somebody may not give an order.

        Raises:
            OrderRateError: Too many were refused lately; this one is counted alone.
            AuditUnavailableError: It can't be put on record.

        """
        self._metrics.lease_order(outcome="refused")
        entry = Entry(kind=EventKind.LEASE, origin=origin, details=_REVOKE)
        await self._administration.refuse(entry, reason=reason)


def _named(selection: Selection) -> dict[str, str]:
    named = {
        "lease": selection.lease,
        "of": selection.identity,
        "leases": "everything" if selection.everything else "",
    }
    return {name: text for name, text in named.items() if text}
