"""The trail in SQLite: one writer, with a thread and a connection of its own.

`synchronous=FULL` in WAL mode makes a commit durable before it returns. All calls of the one
connection run in the order asked on one thread, so whatever `head` reads, no earlier commit lands
after it.
"""

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from broker.audit.chain import Head, TrailRecord
from broker.errors import AuditUnavailableError, SettingsInvalidError
from broker.store.database import connect, create_private
from broker.store.schema import AUDIT, RECORD_COLUMNS, fault_of, migrate
from broker.store.thread import StoreThread
from broker.store.writer_lock import WriterLock

_T = TypeVar("_T")
_INSERT: Final = f"INSERT INTO record ({RECORD_COLUMNS}) VALUES "  # noqa: S608  A constant.
_ROW: Final = "(?, ?, ?, ?, ?, ?, ?, ?)"
_UNREADABLE: Final = {"SQLITE_NOTADB", "SQLITE_CORRUPT"}


class SqliteTrailStore:
    """Keep the trail in one file, as its only writer."""

    def __init__(self, path: Path, *, busy_seconds: float = 2.0) -> None:
        """Take the file; nothing is opened before `open`. Another program's lock is waited for `busy_seconds`."""
        self._path = path
        self._busy_seconds = busy_seconds
        self._thread = StoreThread(name="audit-store")
        self._connection: sqlite3.Connection | None = None
        self._lock = WriterLock(path.with_name(path.name + ".lock"))
        self._file: tuple[int, int] | None = None

    async def open(self) -> None:
        """Lock the trail, open the database, and bring its tables up to date.

        Raises:
            SettingsInvalidError: Another process writes it, it is open to others, newer, or no such database.
            AuditUnavailableError: It can't be written now.

        """
        self._thread.start()
        await self._call(self._open)

    async def head(self) -> Head | None:
        """Return where the trail ends. Raises: AuditUnavailableError."""
        return await self._call(self._head)

    async def commit(self, records: Sequence[TrailRecord], /) -> None:
        """Make all of `records` durable, or none. Raises: AuditUnavailableError."""
        values = [
            value
            for one in records
            for value in (one.trail_id, one.seq, one.time_ms, one.kind, one.outcome, one.identity, one.body, one.hash)
        ]
        # One statement for all: the thread gives the interpreter away and asks for it back at each step of a statement.
        statement = _INSERT + ", ".join([_ROW] * len(records))
        await self._call(lambda: self._write(statement, values))

    async def save_checkpoint(self, note: bytes, /, *, trail_id: str, size: int) -> None:
        """Make a signed checkpoint durable. Raises: AuditUnavailableError."""
        statement = "INSERT INTO checkpoint (trail_id, size, note) VALUES (?, ?, ?)"
        await self._call(lambda: self._write(statement, (trail_id, size, note)))

    async def aclose(self) -> None:
        """Finish what was asked, close the database, and give the lock back; a second call does nothing."""
        await self._thread.aclose(self._close)

    async def _call(self, function: Callable[[], _T]) -> _T:
        if not self._thread.runs:
            message = "the audit database is closed"
            raise AuditUnavailableError(message)
        return await self._thread.submit(function)

    def _open(self) -> None:
        self._lock.take()
        self._file = create_private(self._path)
        try:
            self._connection = connect(
                self._path, busy_seconds=self._busy_seconds, prepare=lambda it: migrate(it, AUDIT, name=str(self._path))
            )
        except sqlite3.Error as error:
            if fault_of(error) in _UNREADABLE:
                message = f"{self._path}: is no audit database, or a damaged one ({fault_of(error)})"
                raise SettingsInvalidError(message) from None
            raise self._unavailable(error) from None

    def _head(self) -> Head | None:
        try:
            connection = self._usable()
            row = connection.execute("SELECT trail_id, seq, hash FROM record ORDER BY seq DESC LIMIT 1").fetchone()
            if row is None:
                return None
            first = connection.execute("SELECT body FROM record WHERE trail_id = ? AND seq = 1", row[:1]).fetchone()
        except sqlite3.Error as error:
            raise self._unavailable(error) from None
        return Head(trail_id=row[0], seq=row[1], hash=row[2], first=first[0] if first else b"{}")

    def _write(self, statement: str, values: Sequence[object]) -> None:
        try:
            # A statement outside of a transaction is one of its own, and durable when it returns.
            self._usable().execute(statement, values)
        except sqlite3.Error as error:
            raise self._unavailable(error) from None

    def _usable(self) -> sqlite3.Connection:
        """Return the connection if its file is still the one that others see under its name."""
        if self._connection is None:
            message = "the audit database is closed"
            raise AuditUnavailableError(message)
        try:
            status = os.stat(self._path)  # noqa: PTH116  Before each commit; pathlib costs three times as much.
        except OSError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._file:
            message = "the audit database was removed or replaced while the broker wrote it"
            raise AuditUnavailableError(message)
        return self._connection

    def _unavailable(self, error: sqlite3.Error) -> AuditUnavailableError:
        return AuditUnavailableError(f"the audit database can't be written ({fault_of(error)})")

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
        self._lock.give_back()
