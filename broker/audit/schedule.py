"""When a checkpoint is due, and the two places that keep each one."""

import asyncio
import secrets
from pathlib import Path
from typing import Final, Protocol

from broker.audit.chain import Head
from broker.audit.checkpoint import Checkpoint, CheckpointKey, append_note
from broker.audit.event import rfc3339
from broker.audit.heartbeat import Heartbeat
from broker.clock import Clock
from broker.errors import AuditUnavailableError

_RUN_BYTES: Final = 8


class CheckpointStore(Protocol):
    """Keep signed checkpoints beside the records."""

    async def save_checkpoint(self, note: bytes, /, *, trail_id: str, size: int) -> None:
        """Make a signed checkpoint durable. Raises: AuditUnavailableError."""
        ...


class CheckpointSchedule:
    """Sign the head of the chain every so many records and every so many seconds."""

    def __init__(
        self,
        *,
        store: CheckpointStore,
        key: CheckpointKey,
        file: Path,
        clock: Clock,
        events: int,
        seconds: float,
        write_seconds: float,
    ) -> None:
        """Take the key, the two places, and the limits: records, seconds, and the time for one write."""
        self.file = file
        self._store = store
        self._key = key
        self._clock = clock
        self._events = events
        self._seconds = seconds
        self._write_seconds = write_seconds
        self._size = 0
        self._began = self._at = clock.monotonic()
        self._run = secrets.token_hex(_RUN_BYTES)
        self._beats = 0

    def seconds_until_due(self, head: Head | None) -> float:
        """Return the time until a checkpoint is due, 0 or less when one is."""
        if head is not None and head.seq - self._size >= self._events:
            return 0.0
        return self._at + self._seconds - self._clock.monotonic()

    async def sign(self, head: Head) -> None:
        """Sign `head`, and return when both places have it.

        Raises:
            AuditUnavailableError: One of them can't be written.

        """
        time = rfc3339(int(self._clock.now() * 1000))
        note = self._key.sign(
            Checkpoint(trail_id=head.trail_id, size=head.seq, head=head.hash, time=time, heartbeat=self._next_beat())
        )
        try:
            async with asyncio.timeout(self._write_seconds):
                await self._store.save_checkpoint(note, trail_id=head.trail_id, size=head.seq)
                # A number that was never kept would look like a removed checkpoint.
                self._beats += 1
                await asyncio.to_thread(append_note, self.file, note)
        except OSError as error:
            # `TimeoutError` is an `OSError` too, and has no text of its own.
            message = f"{self.file}: {error.strerror or 'took too long'}"
            raise AuditUnavailableError(message) from None
        self._size, self._at = head.seq, self._clock.monotonic()

    def postpone(self, head: Head) -> None:
        """Let the next try be a quarter of a period from now, so that a failing disk is not asked at each step."""
        self._size, self._at = head.seq, self._clock.monotonic() - self._seconds * 3 / 4

    def _next_beat(self) -> Heartbeat:
        return Heartbeat(
            run=self._run,
            number=self._beats + 1,
            uptime_ms=int((self._clock.monotonic() - self._began) * 1000),
            interval_ms=int(self._seconds * 1000),
        )
