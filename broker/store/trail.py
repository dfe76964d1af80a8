"""The trail in SQLite: records and signed checkpoints, each durable before its call returns."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from broker.audit.chain import Head, TrailRecord
from broker.store.database import Database
from broker.store.schema import AUDIT, RECORD_COLUMNS
from broker.store.writer_lock import WriterLock

_INSERT: Final = f"INSERT INTO record ({RECORD_COLUMNS}) VALUES "  # noqa: S608  A constant.
_ROW: Final = "(?, ?, ?, ?, ?, ?, ?, ?)"


class SqliteTrailStore:
    """Keep the trail in one file, as its only writer."""

    def __init__(self, path: Path, *, busy_seconds: float = 2.0) -> None:
        """Take the file; nothing is opened before `open`. Another program's lock is waited for `busy_seconds`."""
        lock = WriterLock(path.with_name(path.name + ".lock"))
        self._database = Database(path, tables=AUDIT, busy_seconds=busy_seconds, lock=lock)

    async def open(self) -> None:
        """Lock the trail, open the database, and bring its tables up to date.

        Raises:
            SettingsInvalidError: Another process writes it, it is open to others, newer, or no such database.
            AuditUnavailableError: It can't be written now.

        """
        await self._database.open()

    async def head(self) -> Head | None:
        """Return where the trail ends. Raises: AuditUnavailableError."""
        return await self._database.call(_head)

    async def commit(self, records: Sequence[TrailRecord], /) -> None:
        """Make all of `records` durable, or none. Raises: AuditUnavailableError."""
        values = [
            value
            for one in records
            for value in (one.trail_id, one.seq, one.time_ms, one.kind, one.outcome, one.identity, one.body, one.hash)
        ]
        # One statement for all: the thread gives the interpreter away and asks for it back at each step of a statement.
        statement = _INSERT + ", ".join([_ROW] * len(records))
        # Outside of a transaction it is one of its own, and durable when it returns.
        await self._database.call(lambda it: it.execute(statement, values))

    async def save_checkpoint(self, note: bytes, /, *, trail_id: str, size: int) -> None:
        """Make a signed checkpoint durable. Raises: AuditUnavailableError."""
        statement = "INSERT INTO checkpoint (trail_id, size, note) VALUES (?, ?, ?)"
        await self._database.call(lambda it: it.execute(statement, (trail_id, size, note)))

    async def aclose(self) -> None:
        """Finish what was asked, close the database, and give the lock back; a second call does nothing."""
        await self._database.aclose()


def _head(connection: sqlite3.Connection) -> Head | None:
    row = connection.execute("SELECT trail_id, seq, hash FROM record ORDER BY seq DESC LIMIT 1").fetchone()
    if row is None:
        return None
    first = connection.execute("SELECT body FROM record WHERE trail_id = ? AND seq = 1", row[:1]).fetchone()
    return Head(trail_id=row[0], seq=row[1], hash=row[2], first=first[0] if first else b"{}")
