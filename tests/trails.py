"""Trails for tests: real stores in a folder, and one whose commits fail as asked."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from broker.audit.chain import Head, TrailRecord
from broker.audit.checkpoint import load_or_create_checkpoint_key, notes_in
from broker.audit.event import AuditEvent, EventKind, Outcome, ReferenceRecord
from broker.audit.trail import Trail
from broker.audit.verify import VerificationReport, verify
from broker.audit.writer import Take, TrailStore
from broker.clock import Clock, SystemClock
from broker.errors import AuditUnavailableError
from broker.metrics import Metrics
from broker.store.trail import SqliteTrailStore
from broker.store.trail_reader import SqliteTrailReader


def event(name: str = "spiffe://example/shipper", reference: str = "vault:secret/logflux#api_key") -> AuditEvent:
    return AuditEvent(
        kind=EventKind.RESOLVE,
        outcome=Outcome.SUCCESS,
        identity=name,
        references=(ReferenceRecord(reference=reference, status="ok"),),
    )


async def build(
    directory: Path,
    store: TrailStore,
    registry: CollectorRegistry | None = None,
    clock: Clock | None = None,
    **limits: Any,
) -> Trail:
    return Trail(
        store=store,
        key=await asyncio.to_thread(load_or_create_checkpoint_key, directory / "checkpoint.key"),
        checkpoints=directory / "checkpoints.log",
        clock=clock or SystemClock(),
        metrics=Metrics(registry=registry or CollectorRegistry(), version="0"),
        **limits,
    )


@asynccontextmanager
async def running(directory: Path, store: TrailStore | None = None, **limits: Any) -> AsyncIterator[Trail]:
    trail = await build(directory, store or SqliteTrailStore(directory / "audit.db"), **limits)
    await trail.start()
    try:
        yield trail
    finally:
        await trail.close()


def checked(directory: Path, *, key: str | None = None, side_file: bool = True) -> VerificationReport:
    reader = SqliteTrailReader(directory / "audit.db")
    try:
        file = directory / "checkpoints.log"
        notes = list(notes_in(file.read_bytes())) if side_file else []
        return verify(reader, checkpoints=notes, verifier_key=key)
    finally:
        reader.close()


class MemoryStore:
    """A store in memory. `fate` of the next commits: keep, refuse, or lose the answer of a commit that was kept."""

    def __init__(self) -> None:
        self.records: list[TrailRecord] = []
        self.commits: list[int] = []
        self.fates: list[str] = []
        self.notes: list[bytes] = []

    async def open(self) -> None:
        return

    async def head(self) -> Head | None:
        if not self.records:
            return None
        last = self.records[-1]
        return Head(trail_id=last.trail_id, seq=last.seq, hash=last.hash, first=self.records[0].body)

    async def commit(self, take: Take, kept: Callable[[], None], /) -> None:
        while records := take():
            await self.write(records)
            kept()

    async def write(self, records: Sequence[TrailRecord]) -> None:
        fate = self.fates.pop(0) if self.fates else "keep"
        if fate != "refuse":
            self.records.extend(records)
            self.commits.append(len(records))
        if fate != "keep":
            raise AuditUnavailableError("the disk went away")

    async def save_checkpoint(self, note: bytes, /, *, trail_id: str, size: int) -> None:
        self.notes.append(note)

    async def aclose(self) -> None:
        return
