"""When a checkpoint is due, and the two places that keep each one."""

import asyncio
from pathlib import Path
from typing import Protocol

from broker.audit.chain import Head
from broker.audit.checkpoint import Checkpoint, CheckpointKey, append_note
from broker.audit.event import rfc3339
from broker.clock import Clock
from broker.errors import AuditUnavailableError


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
        self._at = clock.monotonic()

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
        note = self._key.sign(Checkpoint(trail_id=head.trail_id, size=head.seq, head=head.hash, time=time))
        try:
            async with asyncio.timeout(self._write_seconds):
                await self._store.save_checkpoint(note, trail_id=head.trail_id, size=head.seq)
                await asyncio.to_thread(append_note, self.file, note)
        except OSError as error:
            # `TimeoutError` is an `OSError` too, and has no text of its own.
            message = f"{self.file}: {error.strerror or 'took too long'}"
            raise AuditUnavailableError(message) from None
        self.postpone(head)

    def postpone(self, head: Head) -> None:
        """Let the next one be due a whole period from now, so that a failing disk is not asked at each step."""
        self._size, self._at = head.seq, self._clock.monotonic()
