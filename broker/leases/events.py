"""What happens to leases, told in the trail and in the metrics; never the back end's own name of one."""

from typing import Final

from broker.audit.event import AuditEvent, EventKind, EventSink, Outcome, ReferenceRecord
from broker.errors import AuditUnavailableError, UpstreamDeniedError
from broker.leases.record import LeaseRecord
from broker.logs import EventLogger
from broker.series.upstream import LeaseSeries
from broker.source_words import SourceWords

_LOG: Final = EventLogger("broker.leases")


class LeaseEvents:
    """Tell of leases."""

    def __init__(self, *, trail: EventSink, metrics: LeaseSeries) -> None:
        """Keep the collaborators."""
        self._trail = trail
        self._metrics = metrics

    async def tell(
        self,
        record: LeaseRecord,
        event: str,
        *,
        outcome: Outcome = Outcome.SUCCESS,
        words: SourceWords | None = None,
    ) -> None:
        """Count `event`, and put it on record. Raises: AuditUnavailableError."""
        self.count(record, event)
        reference = ReferenceRecord(reference=record.source, status=event, reason=record.reason.value, words=words)
        await self._trail.append(
            AuditEvent(
                kind=EventKind.LEASE,
                outcome=outcome,
                identity=record.identity,
                reason=event,
                references=(reference,),
                details={"lease": record.id},
            )
        )

    async def tell_denied(self, record: LeaseRecord, denial: UpstreamDeniedError) -> None:
        """Put on record that the back end does not let the broker revoke a lease, which goes on being valid."""
        try:
            await self.tell(record, "revoke_denied", outcome=Outcome.FAILURE, words=denial.words)
        except AuditUnavailableError as error:
            _LOG.error("lease_not_on_record", lease=record.id, reason=error.detail)

    def count(self, record: LeaseRecord, event: str) -> None:
        """Count something that is not put on record: renewed, mint_failed, renew_failed or revoke_failed."""
        self._metrics.lease(provider=record.provider, event=event)

    def leases_active(self, count: int) -> None:
        """State how many leases are handed out."""
        self._metrics.leases_active(count)
