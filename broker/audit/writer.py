"""Writing the chain: the one place that knows where it ends, and what a commit of unknown outcome may have left.

When a commit fails nobody knows whether the store kept it, so the head is read again before anything more is
written, and the chain goes on only where one of our own records ends it.
"""

import asyncio
import json
import secrets
from collections.abc import Sequence
from typing import Protocol

from broker.audit.chain import TRAIL_ID_BYTES, Head, TrailRecord, genesis_hash, record_hash
from broker.audit.checkpoint import CheckpointKey
from broker.audit.event import AuditEvent, EventKind, Outcome, canonical, rfc3339
from broker.clock import Clock
from broker.errors import AuditUnavailableError, SettingsInvalidError
from broker.escape import clean
from broker.series.audit import AuditSeries


class TrailStore(Protocol):
    """Keep records and checkpoints. Every method may raise `AuditUnavailableError`."""

    async def open(self) -> None:
        """Get ready to write, as the only writer. Raises: SettingsInvalidError."""
        ...

    async def head(self) -> Head | None:
        """Return where the trail ends, None when it was never begun; no earlier commit may land after this."""
        ...

    async def commit(self, records: Sequence[TrailRecord], /) -> None:
        """Make all of `records` durable, or none."""
        ...

    async def save_checkpoint(self, note: bytes, /, *, trail_id: str, size: int) -> None:
        """Make a signed checkpoint durable."""
        ...

    async def aclose(self) -> None:
        """Let go of everything; a second call does nothing."""
        ...


class ChainWriter:
    """Write records behind the end of a store's one chain; one task at a time may ask for it."""

    def __init__(self, *, store: TrailStore, clock: Clock, metrics: AuditSeries, commit_seconds: float) -> None:
        """Take the collaborators; a commit that takes longer than `commit_seconds` counts as failed."""
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._commit_seconds = commit_seconds
        self._head: Head | None = None
        # What a commit of unknown outcome tried to write: the store may rightly end at one of these.
        self._attempted: tuple[TrailRecord, ...] = ()

    @property
    def head(self) -> Head | None:
        """Return where the chain ends, None before it is open."""
        return self._head

    async def open(self, *, key: CheckpointKey, named: str) -> Head:
        """Open the store, and begin the chain with `key` if there is none, and return where it ends.

        `named` is the file of the checkpoints.

        Raises:
            SettingsInvalidError: Another process writes the trail, or it was begun with another key.
            AuditUnavailableError: The store can't be written.

        """
        await self._store.open()
        head = await self._store.head()
        if head is None:
            return await self._begin(key)
        _refuse_another_key(head, key, named)
        self._head = head
        return head

    async def write(self, events: Sequence[tuple[AuditEvent, int]]) -> None:
        """Make `events` durable, each with its time in milliseconds, all of them or none.

        Raises:
            AuditUnavailableError: They are not known to be; `find_end` comes before the next `write`.

        """
        await self._commit(self._chain(events))

    async def find_end(self) -> None:
        """Learn from the store where the chain ends after a commit of unknown outcome.

        Raises:
            AuditUnavailableError: The store can't be read, or it ends with none of our records.

        """
        try:
            async with asyncio.timeout(self._commit_seconds):
                found = await self._store.head()
        except TimeoutError:
            message = f"the audit trail took more than {self._commit_seconds:g} s to tell where it ends"
            raise AuditUnavailableError(message) from None
        self._head = self._expected(found)
        self._attempted = ()

    async def aclose(self) -> None:
        """Close the store; a second call does nothing."""
        await self._store.aclose()

    async def _commit(self, records: Sequence[TrailRecord]) -> Head:
        started = self._clock.monotonic()
        self._attempted = tuple(records)
        try:
            async with asyncio.timeout(self._commit_seconds):
                await self._store.commit(records)
        except TimeoutError:
            message = f"the audit trail took more than {self._commit_seconds:g} s for one commit"
            raise AuditUnavailableError(message) from None
        last, first = records[-1], self._head.first if self._head else records[0].body
        self._head = head = Head(trail_id=last.trail_id, seq=last.seq, hash=last.hash, first=first)
        self._attempted = ()
        self._metrics.audit_commit(kinds=[record.kind for record in records], seconds=self._clock.monotonic() - started)
        return head

    def _chain(self, events: Sequence[tuple[AuditEvent, int]]) -> list[TrailRecord]:
        """Return the records of `events`, chained to the head, which stays where it is."""
        if self._head is None:
            message = "the audit trail has no beginning"
            raise AuditUnavailableError(message)
        trail_id, seq, prev = self._head.trail_id, self._head.seq, self._head.hash
        records: list[TrailRecord] = []
        for event, time_ms in events:
            seq += 1
            records.append(_record(event, trail_id=trail_id, seq=seq, prev=prev, time_ms=time_ms))
            prev = records[-1].hash
        return records

    async def _begin(self, key: CheckpointKey) -> Head:
        """Write record 1, which repeats in clear what the chain's beginning is computed from."""
        created = milliseconds(self._clock)
        trail_id = secrets.token_hex(TRAIL_ID_BYTES)
        verifier = key.verifier
        event = AuditEvent(
            kind=EventKind.CHECKPOINT,
            outcome=Outcome.SUCCESS,
            reason="genesis",
            details={"created_ms": created, "key": verifier.text},
        )
        genesis = genesis_hash(trail_id=trail_id, created_ms=created, public_key=verifier.public_key)
        return await self._commit([_record(event, trail_id=trail_id, seq=1, prev=genesis, time_ms=created)])

    def _expected(self, found: Head | None) -> Head:
        """Return `found` if the chain may go on there: at our head, or at a record whose fate was unknown."""
        known = {(record.seq, record.hash) for record in self._attempted}
        if self._head is not None:
            known.add((self._head.seq, self._head.hash))
        if found is None or (found.seq, found.hash) not in known:
            message = "the audit trail in the store does not end where it was left; run `broker audit verify`"
            raise AuditUnavailableError(message)
        return found


def _refuse_another_key(head: Head, key: CheckpointKey, named: str) -> None:
    begun_with = json.loads(head.first).get("details", {}).get("key", "")
    if begun_with != key.verifier.text:
        message = (
            f"the audit trail was begun with checkpoint key {clean(str(begun_with))!r}, and the key file holds "
            f"{key.verifier.text!r}; restore the key file, or move the database and {named} away together to begin "
            "a new trail"
        )
        raise SettingsInvalidError(message)


def _record(event: AuditEvent, *, trail_id: str, seq: int, prev: bytes, time_ms: int) -> TrailRecord:
    body = canonical(event, trail_id=trail_id, seq=seq, prev=prev.hex(), time=rfc3339(time_ms))
    return TrailRecord(
        trail_id=trail_id,
        seq=seq,
        time_ms=time_ms,
        kind=event.kind.value,
        outcome=event.outcome.value,
        identity=clean(event.identity),
        body=body,
        hash=record_hash(prev=prev, seq=seq, body=body),
    )


def milliseconds(clock: Clock) -> int:
    """Return the wall time as records carry it."""
    return int(clock.now() * 1000)
