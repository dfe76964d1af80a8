"""The trail: events become durable records of one chain, many in one commit, before any value leaves.

The event loop owns the chain: an event joins it as it comes. The store writes all that waits, commit after commit for
as long as something does, and each caller goes on when its own is durable. After a commit that failed every caller is
refused at once, until a real record was written again.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.audit.callers import CLOSED, Callers
from broker.audit.checkpoint import CheckpointKey
from broker.audit.event import AuditEvent, EventKind, Outcome, rfc3339
from broker.audit.schedule import CheckpointSchedule
from broker.audit.writer import ChainWriter, TrailStore, milliseconds
from broker.clock import Clock
from broker.errors import AuditUnavailableError
from broker.logs import EventLogger, error_fields
from broker.series.audit import AuditSeries

_LOG: Final = EventLogger("broker.audit")


@dataclass(frozen=True, slots=True)
class TrailState:
    """Whether events can be made durable; `since` is the wall time of the last change."""

    healthy: bool
    reason: str
    since: float


class Trail:
    """Append events to the one chain of a store."""

    def __init__(  # noqa: PLR0913  Three limits with defaults stand beside the collaborators.
        self,
        *,
        store: TrailStore,
        key: CheckpointKey,
        checkpoints: Path,
        clock: Clock,
        metrics: AuditSeries,
        checkpoint_events: int = 1000,
        checkpoint_seconds: float = 60.0,
        max_pending: int = 10_000,
        commit_seconds: float = 5.0,
        probe_seconds: float = 1.0,
    ) -> None:
        """Take the collaborators; nothing is opened before `start`.

        Args:
            store: Where records and checkpoints are kept.
            key: Signs the checkpoints.
            checkpoints: File that gets each checkpoint too, so that a cut end is found.
            clock: Gives the time of each record.
            metrics: Counts.
            checkpoint_events: A checkpoint is signed after so many records,
            checkpoint_seconds: and after so many seconds, also when nothing happened.
            max_pending: Events that may wait; one more is refused at once.
            commit_seconds: A commit that takes longer counts as failed.
            probe_seconds: While the store fails it is tried this often.

        """
        self._key = key
        self._writer = ChainWriter(store=store, clock=clock, metrics=metrics, commit_seconds=commit_seconds)
        self._checkpoints = CheckpointSchedule(
            store=store,
            key=key,
            file=checkpoints,
            clock=clock,
            events=checkpoint_events,
            seconds=checkpoint_seconds,
            write_seconds=commit_seconds,
        )
        self._clock = clock
        self._metrics = metrics
        self._probe_seconds = probe_seconds
        self._callers = Callers(most=max_pending, metrics=metrics)
        self._state = TrailState(healthy=False, reason="not started", since=clock.now())
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> TrailState:
        """Return whether events can be made durable, and since when."""
        return self._state

    @property
    def healthy(self) -> bool:
        """Tell whether events can be made durable."""
        return self._state.healthy

    def health(self) -> str:
        """Return why events can't be made durable; empty when they can."""
        return self._state.reason

    async def start(self) -> None:
        """Open the store, begin the trail if there is none, sign a checkpoint, and accept events.

        Raises:
            SettingsInvalidError: Another process writes the trail, or it was begun with another key.
            AuditUnavailableError: The store can't be written.

        """
        try:
            await self._checkpoints.sign(await self._writer.open(key=self._key, named=self._checkpoints.file.name))
        except BaseException:
            await self._writer.aclose()
            raise
        self._set_state(healthy=True, reason="")
        self._task = asyncio.create_task(self._run())

    async def append(self, event: AuditEvent) -> None:
        """Return when `event` is durable.

        A caller that is cancelled meanwhile leaves its event behind, which is then recorded as usual.

        Raises:
            AuditUnavailableError: It is not known to be durable, so nothing may be revealed.

        """
        if not self._state.healthy and not self._callers.closed:
            raise self._callers.refusal(self._state.reason)
        self._callers.require_room()
        self._writer.chain(event, time_ms=milliseconds(self._clock))
        await self._callers.wait_for_record()

    async def close(self) -> None:
        """Make durable what waits, sign a last checkpoint, and close the store; a second call does nothing."""
        if self._task is None:
            return
        self._callers.close()
        task, self._task = self._task, None
        try:
            # A cancelled closer must not cancel the owner of the chain in the middle of a commit.
            await asyncio.shield(task)
            await self._checkpoint()
        finally:
            self._callers.refuse_all(CLOSED)
            self._set_state(healthy=False, reason=CLOSED)
            await self._writer.aclose()

    async def _run(self) -> None:
        """Own the chain until the trail closes and nothing waits."""
        while self._callers or not self._callers.closed:
            try:
                await self._step()
            except Exception as error:  # noqa: BLE001  The owner of the chain must outlive every defect, or all callers wait for ever.
                _LOG.error("bug", **error_fields(error))
                self._fail("the audit trail met a defect")
        self._metrics.audit_pending(0)

    async def _step(self) -> None:
        if not self._state.healthy:
            if self._callers.closed:
                self._callers.refuse_all(CLOSED)
                return
            await self._callers.wait_for_news(self._probe_seconds)
            await self._probe()
            return
        if not self._callers:
            await self._callers.wait_for_news(self._checkpoints.seconds_until_due(self._writer.head))
        if self._callers:
            await self._write()
        if self._is_checkpoint_due():
            await self._checkpoint()

    async def _write(self) -> None:
        try:
            await self._writer.write(kept=self._callers.let_go, enough=self._is_checkpoint_due)
        except AuditUnavailableError as error:
            self._fail(error.detail)

    def _is_checkpoint_due(self) -> bool:
        return self._checkpoints.seconds_until_due(self._writer.head) <= 0

    async def _probe(self) -> None:
        """Try to write a real record, which says how long nothing could be written."""
        outage = self._state
        try:
            await self._writer.find_end()
            event = AuditEvent(
                kind=EventKind.CHECKPOINT,
                outcome=Outcome.FAILURE,
                reason="recovered",
                details={"failed_since": rfc3339(int(outage.since * 1000)), "refused_events": self._callers.refused},
            )
            self._writer.chain(event, time_ms=milliseconds(self._clock))
            await self._writer.write(kept=lambda _count: None)
        except AuditUnavailableError as error:
            self._metrics.audit_failure()
            self._set_state(healthy=False, reason=error.detail)
            return
        self._callers.refused = 0
        self._set_state(healthy=True, reason="")
        _LOG.warning("audit_recovered", failed_since=rfc3339(int(outage.since * 1000)))

    async def _checkpoint(self) -> None:
        """Sign where the chain ends now. A failure is loud and tried again later; no caller is refused for it."""
        if self._writer.head is None or not self._state.healthy:
            return
        try:
            await self._checkpoints.sign(self._writer.head)
        except AuditUnavailableError as error:
            self._metrics.audit_failure()
            self._checkpoints.postpone(self._writer.head)
            _LOG.error("checkpoint_failed", reason=error.detail)

    def _fail(self, reason: str) -> None:
        self._metrics.audit_failure()
        self._set_state(healthy=False, reason=reason)
        _LOG.error("audit_failed", reason=reason, effect="nothing is revealed")
        self._callers.refuse_all(reason)

    def _set_state(self, *, healthy: bool, reason: str) -> None:
        since = self._state.since if healthy == self._state.healthy else self._clock.now()
        self._state = TrailState(healthy, reason, since)
