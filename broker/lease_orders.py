"""The use case: an administrator takes leases back, on record before it is done. No value is shown."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from broker.administration import Administration, Origin
from broker.audit.event import AuditEvent, EventKind, EventSink, Outcome, ReferenceRecord
from broker.errors import LeaseUnknownError, OrderRateError
from broker.identity import PeerIdentity
from broker.leases.record import LeaseRecord
from broker.leases.upkeep import Withdrawal
from broker.pattern import Pattern
from broker.reference import parse
from broker.series.upstream import LeaseSeries

_WAIT_SECONDS: Final = 10.0


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

    def __init__(
        self, *, administration: Administration, leases: Revocable, trail: EventSink, metrics: LeaseSeries
    ) -> None:
        """Keep the collaborators."""
        self._administration = administration
        self._leases = leases
        self._trail = trail
        self._metrics = metrics

    @property
    def administration(self) -> Administration:
        """Return who may give orders."""
        return self._administration

    async def revoke(self, selection: Selection, *, peer: PeerIdentity, origin: Origin) -> Withdrawal:
        """Take back the leases that `selection` names; what is not gone after ten seconds is tried until it is.

        Raises:
            NotAdministratorError: Policy does not name the peer as an administrator.
            OrderRateError: Too many orders came lately.
            AuditUnavailableError: It can't be put on record, so nothing is done.
            LeaseUnknownError: It names one lease, and there is none of that id.

        """
        environment = self._administration.require(peer)
        try:
            self._administration.count()
        except OrderRateError:
            self._metrics.lease_order(outcome="limited")
            raise
        await self._record(Outcome.SUCCESS, origin, environment=environment, selection=selection)
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
        self._administration.count_refused()
        await self._record(Outcome.FAILURE, origin, reason=reason)

    async def _record(
        self,
        outcome: Outcome,
        origin: Origin,
        *,
        environment: str = "",
        reason: str = "ordered",
        selection: Selection | None = None,
    ) -> None:
        details: dict[str, str | int] = {"action": "revoke"}
        if selection is not None:
            named = {"lease": selection.lease, "of": selection.identity}
            details |= {name: text for name, text in named.items() if text}
            if selection.everything:
                details["leases"] = "everything"
        patterns = () if selection is None else selection.patterns
        event = AuditEvent(
            kind=EventKind.LEASE,
            outcome=outcome,
            identity=origin.name,
            environment=environment,
            address=origin.address,
            request=origin.request,
            reason=reason,
            references=tuple(ReferenceRecord(reference=pattern.text, status="ordered") for pattern in patterns),
            details=details,
        )
        await self._trail.append(event)
