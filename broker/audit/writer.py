"""Writing the chain: the one place that knows where it ends, and what a commit of unknown outcome may have left.

An event becomes a record at once, behind the one before it, and waits; the store takes what waits as soon as its disk
is free. When a commit fails nobody knows whether the store kept it, so the head is read again before anything more is
written, and the chain goes on only where one of our own records ends it.
"""

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from broker.audit.chain import TRAIL_ID_BYTES, Head, TrailRecord, genesis_hash, record_hash
from broker.audit.checkpoint import CheckpointKey
from broker.audit.event import AuditEvent, EventKind, Outcome, canonical, rfc3339
from broker.clock import Clock
from broker.errors import AuditUnavailableError, SettingsInvalidError
from broker.escape import clean
from broker.series.audit import AuditSeries

MAX_COMMIT: Final = 256

Take = Callable[[], Sequence[TrailRecord]]


class TrailStore(Protocol):
    """Keep records and checkpoints. Every method may raise `AuditUnavailableError`."""

    async def open(self) -> None:
        """Get ready to write, as the only writer. Raises: SettingsInvalidError."""
        ...

    async def head(self) -> Head | None:
        """Return where the trail ends, None when it was never begun; no earlier commit may land after this."""
        ...

    async def commit(self, take: Take, kept: Callable[[], None], /) -> None:
        """Make what `take` gives durable, all of it or none, and again, until it gives nothing.

        `take` may be called in another thread, when the store can write. `kept` is called in the event loop, once for
        each commit and in their order, before this returns.
        """
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
        # What is chained behind the head and not known to be durable: the store may rightly end at one of these.
        self._unkept: deque[TrailRecord] = deque()
        # Those of them that the store has not taken yet.
        self._waiting: deque[TrailRecord] = deque()

    @property
    def head(self) -> Head | None:
        """Return where the durable chain ends, None before it is open."""
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
            await self._begin(key)
        else:
            _refuse_another_key(head, key, named)
            self._head = head
        return self._durable()

    def chain(self, event: AuditEvent, *, time_ms: int) -> None:
        """Make a record of `event` that follows all before it, and let it wait for `write`.

        Raises:
            AuditUnavailableError: The chain has no beginning.

        """
        last = self._unkept[-1] if self._unkept else self._durable()
        self._wait(_record(event, trail_id=last.trail_id, seq=last.seq + 1, prev=last.hash, time_ms=time_ms))

    async def write(self, *, kept: Callable[[int], None], enough: Callable[[], bool] = lambda: False) -> None:
        """Make durable what waits and what comes to wait meanwhile, until nothing does, or `enough` after a commit.

        `kept` is told after each commit how many of the oldest records are durable now.

        Raises:
            AuditUnavailableError: The others are not known to be; `find_end` comes before the next `write`.

        """
        commits = _Commits(self._waiting, self._clock)

        def after_commit() -> None:
            if commits.abandoned or limit.expired():
                return
            try:
                limit.reschedule(asyncio.get_running_loop().time() + self._commit_seconds)
                count, seconds = commits.ended()
                self._advance(count, seconds)
                kept(count)
                commits.last = enough()
            except Exception:
                # The loop reports a defect in a callback, and nobody else would know of it.
                commits.abandoned = True
                raise

        try:
            async with asyncio.timeout(self._commit_seconds) as limit:
                await self._store.commit(commits.take, after_commit)
            if commits.abandoned:
                message = "the audit trail met a defect after a commit"
                raise AuditUnavailableError(message)
        except TimeoutError:
            message = f"the audit trail took more than {self._commit_seconds:g} s for one commit"
            raise AuditUnavailableError(message) from None
        finally:
            # A commit that hangs may end much later, and must not take or tell anything then.
            commits.abandoned = True

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
        # The store has done by now whatever it was asked to, so nobody else takes from what waits.
        self._head = self._expected(found)
        self._unkept.clear()
        self._waiting.clear()

    async def aclose(self) -> None:
        """Close the store; a second call does nothing."""
        await self._store.aclose()

    def _durable(self) -> Head:
        if self._head is None:
            message = "the audit trail has no beginning"
            raise AuditUnavailableError(message)
        return self._head

    def _wait(self, record: TrailRecord) -> None:
        self._unkept.append(record)
        self._waiting.append(record)

    def _advance(self, count: int, seconds: float) -> None:
        """Let the chain end behind the oldest `count` records, which are durable after `seconds`."""
        records = [self._unkept.popleft() for _ in range(count)]
        last, first = records[-1], self._head.first if self._head else records[0].body
        self._head = Head(trail_id=last.trail_id, seq=last.seq, hash=last.hash, first=first)
        self._metrics.audit_commit(kinds=[record.kind for record in records], seconds=seconds)

    async def _begin(self, key: CheckpointKey) -> None:
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
        self._wait(_record(event, trail_id=trail_id, seq=1, prev=genesis, time_ms=created))
        await self.write(kept=lambda _count: None)

    def _expected(self, found: Head | None) -> Head:
        """Return `found` if the chain may go on there: at our head, or at a record whose fate was unknown."""
        known = {(record.seq, record.hash) for record in self._unkept}
        if self._head is not None:
            known.add((self._head.seq, self._head.hash))
        if found is None or (found.seq, found.hash) not in known:
            message = "the audit trail in the store does not end where it was left; run `broker audit verify`"
            raise AuditUnavailableError(message)
        return found


class _Commits:
    """What the store takes in one `write`: its `take` runs in the store's thread, everything else in the loop."""

    def __init__(self, waiting: deque[TrailRecord], clock: Clock) -> None:
        self._waiting = waiting
        self._clock = clock
        # How many each commit has and when it began. As with `waiting`, one side appends and the other pops.
        self._begun: deque[tuple[int, float]] = deque()
        self.last = False
        self.abandoned = False

    def take(self) -> Sequence[TrailRecord]:
        if self.last or self.abandoned:
            return ()
        records = [self._waiting.popleft() for _ in range(min(MAX_COMMIT, len(self._waiting)))]
        if records:
            self._begun.append((len(records), self._clock.monotonic()))
        return records

    def ended(self) -> tuple[int, float]:
        """Return how many records the oldest commit has, and the seconds that it took."""
        count, began = self._begun.popleft()
        return count, self._clock.monotonic() - began


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
