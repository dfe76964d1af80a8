"""The trail in SQLite: one writer thread and connection, and readers beside it.

`synchronous=FULL` in WAL mode makes a commit durable before it returns. All calls of the one
connection run in the order asked on one thread, so whatever `head` reads, no earlier commit lands
after it.
"""

import asyncio
import fcntl
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar
from urllib.parse import quote

from broker.audit.chain import Head, TrailRecord
from broker.audit.search import Query
from broker.errors import AuditUnavailableError, SettingsInvalidError
from broker.store.schema import migrate, schema_version

_T = TypeVar("_T")
_Job = Callable[[], None]
_COLUMNS: Final = "trail_id, seq, time_ms, kind, outcome, identity, body, hash"
_INSERT: Final = f"INSERT INTO record ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  Two constants.
_UNREADABLE: Final = {"SQLITE_NOTADB", "SQLITE_CORRUPT"}
_PAGE: Final = 512


class SqliteTrailStore:
    """Keep the trail in one file, as its only writer."""

    def __init__(self, path: Path, *, busy_seconds: float = 2.0) -> None:
        """Take the file; nothing is opened before `open`. Another program's lock is waited for `busy_seconds`."""
        self._path = path
        self._busy_seconds = busy_seconds
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._file: tuple[int, int] | None = None

    async def open(self) -> None:
        """Lock the trail, open the database, and bring its tables up to date.

        Raises:
            SettingsInvalidError: Another process writes it, it is open to others, newer, or no such database.
            AuditUnavailableError: It can't be written now.

        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="audit-store", daemon=True)
            self._thread.start()
        await self._call(self._open)

    async def head(self) -> Head | None:
        """Return where the trail ends. Raises: AuditUnavailableError."""
        return await self._call(self._head)

    async def commit(self, records: Sequence[TrailRecord], /) -> None:
        """Make all of `records` durable, or none. Raises: AuditUnavailableError."""
        rows = [
            (one.trail_id, one.seq, one.time_ms, one.kind, one.outcome, one.identity, one.body, one.hash)
            for one in records
        ]
        await self._call(lambda: self._write(_INSERT, rows))

    async def save_checkpoint(self, note: bytes, /, *, trail_id: str, size: int) -> None:
        """Make a signed checkpoint durable. Raises: AuditUnavailableError."""
        statement = "INSERT INTO checkpoint (trail_id, size, note) VALUES (?, ?, ?)"
        await self._call(lambda: self._write(statement, [(trail_id, size, note)]))

    async def aclose(self) -> None:
        """Finish what was asked, close the database, and give the lock back; a second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        closed = self._submit(self._close)
        self._jobs.put(None)
        await asyncio.wrap_future(closed)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    async def _call(self, function: Callable[[], _T]) -> _T:
        if self._thread is None:
            message = "the audit database is closed"
            raise AuditUnavailableError(message)
        return await asyncio.wrap_future(self._submit(function))

    def _submit(self, function: Callable[[], _T]) -> Future[_T]:
        future: Future[_T] = Future()

        def job() -> None:
            # A job whose caller gave up before it began is not begun.
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001  Every outcome belongs to the caller.
                future.set_exception(error)

        self._jobs.put(job)
        return future

    def _open(self) -> None:
        self._lock_for_writing()
        self._create_private()
        try:
            self._connect()
        except sqlite3.Error as error:
            if _name_of(error) in _UNREADABLE:
                message = f"{self._path}: is no audit database, or a damaged one ({_name_of(error)})"
                raise SettingsInvalidError(message) from None
            raise self._unavailable(error) from None

    def _lock_for_writing(self) -> None:
        if self._lock is not None:
            return
        lock_file = self._path.with_name(self._path.name + ".lock")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            message = f"{lock_file}: {error.strerror}"
            raise SettingsInvalidError(message) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            message = f"{self._path}: another broker process is writing this audit trail; each needs its own"
            raise SettingsInvalidError(message) from None
        self._lock = descriptor

    def _create_private(self) -> None:
        """Create the file with mode 0600; its WAL gets the same mode from SQLite."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            message = f"{self._path}: {error.strerror}"
            raise SettingsInvalidError(message) from None
        status = os.fstat(descriptor)
        os.close(descriptor)
        if stat.S_IMODE(status.st_mode) & 0o077:
            message = f"{self._path}: mode {stat.S_IMODE(status.st_mode):04o} lets others at it; chmod 600 {self._path}"
            raise SettingsInvalidError(message)
        self._file = (status.st_dev, status.st_ino)

    def _connect(self) -> None:
        connection = sqlite3.connect(self._path, timeout=self._busy_seconds, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            connection.execute("PRAGMA trusted_schema = OFF")
            migrate(connection, name=str(self._path))
        except BaseException:
            connection.close()
            raise
        self._connection = connection

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

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            connection = self._usable()
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(statement, rows)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._unavailable(error) from None

    def _usable(self) -> sqlite3.Connection:
        """Return the connection if its file is still the one that others see under its name."""
        if self._connection is None:
            message = "the audit database is closed"
            raise AuditUnavailableError(message)
        try:
            status = self._path.stat()
        except OSError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._file:
            message = "the audit database was removed or replaced while the broker wrote it"
            raise AuditUnavailableError(message)
        return self._connection

    def _unavailable(self, error: sqlite3.Error) -> AuditUnavailableError:
        return AuditUnavailableError(f"the audit database can't be written ({_name_of(error)})")

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


class SqliteTrailReader:
    """Read the trail beside the broker that writes it; implements `TrailReader`."""

    def __init__(self, path: Path) -> None:
        """Open the database for reading only.

        Raises:
            SettingsInvalidError: The file is missing, unreadable, or no audit database.

        """
        self._path = path
        if not path.is_file():
            message = f"{path}: no such file; --database names the `audit.db` of the broker's state directory"
            raise SettingsInvalidError(message)
        try:
            self._connection = self._connect()
        except sqlite3.Error as error:
            raise self._unreadable(error) from None

    def records(self, query: Query, /, *, newest_first: bool = False) -> Iterator[TrailRecord]:
        """Return the records that fit, by number. Raises: SettingsInvalidError."""
        conditions, values = _conditions(query)
        last: tuple[int, int] | None = None
        direction, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        # Each page is a transaction of its own: one long one would keep the broker from trimming its WAL.
        while True:
            where = [*conditions, *([f"(seq, rowid) {beyond} (?, ?)"] if last else [])]
            statement = (
                f"SELECT rowid, {_COLUMNS} FROM record WHERE {' AND '.join(where)} "  # noqa: S608  Our own words.
                f"ORDER BY seq {direction}, rowid {direction} LIMIT {_PAGE}"
            )
            rows = self._fetch(statement, (*values, *(last or ())))
            for row in rows:
                yield _record_of(row[1:])
            if len(rows) < _PAGE:
                return
            last = (rows[-1][2], rows[-1][0])

    def checkpoints(self) -> Iterator[bytes]:
        """Return every signed checkpoint in the order in which they were kept. Raises: SettingsInvalidError."""
        last = 0
        while rows := self._fetch(
            "SELECT rowid, note FROM checkpoint WHERE rowid > ? ORDER BY rowid LIMIT ?", (last, _PAGE)
        ):
            yield from (row[1] for row in rows)
            last = rows[-1][0]

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._connection.close()

    def _connect(self) -> sqlite3.Connection:
        # What a reader needs beside a WAL is made by the writer; where a copy lies on read-only media
        # without any WAL, nothing can change under us and SQLite may be told so.
        uri = f"file:{quote(str(self._path.absolute()))}?mode=ro"
        try:
            return self._checked(sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None))
        except sqlite3.OperationalError:
            wal = self._path.with_name(self._path.name + "-wal")
            if wal.exists() and wal.stat().st_size:
                raise
            return self._checked(sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None))

    def _checked(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except BaseException:
            connection.close()
            raise
        if not 1 <= version <= schema_version():
            connection.close()
            message = f"{self._path}: is no audit database of this version of the broker (schema {version})"
            raise SettingsInvalidError(message)
        return connection

    def _fetch(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: sqlite3.Error) -> SettingsInvalidError:
        return SettingsInvalidError(f"{self._path}: can't be read ({_name_of(error)})")


def _conditions(query: Query) -> tuple[list[str], list[object]]:
    pairs: list[tuple[str, list[object]]] = [("seq > ?", [query.after])]
    if query.kind is not None:
        pairs.append(("kind = ?", [query.kind.value]))
    if query.outcome is not None:
        # The word itself and no placeholder: the index over failures alone is found by it.
        pairs.append((f"outcome = '{query.outcome.value}'", []))
    if query.since_ms is not None:
        pairs.append(("time_ms >= ?", [query.since_ms]))
    if query.identity.endswith("*"):
        prefix = query.identity[:-1]
        pairs.append(("identity >= ? AND identity < ?", [prefix, prefix + "\U0010ffff"]))
    elif query.identity:
        pairs.append(("identity = ?", [query.identity]))
    return [condition for condition, _ in pairs], [value for _, values in pairs for value in values]


def _record_of(row: tuple[Any, ...]) -> TrailRecord:
    """Return the record in a row; somebody who rebuilt the table may have put other types there."""
    trail_id, seq, time_ms, kind, outcome, identity, body, digest = row
    return TrailRecord(
        trail_id=str(trail_id),
        seq=int(seq),
        time_ms=int(time_ms),
        kind=str(kind),
        outcome=str(outcome),
        identity=str(identity),
        body=bytes(body) if isinstance(body, bytes) else str(body).encode(),
        hash=bytes(digest) if isinstance(digest, bytes) else str(digest).encode(),
    )


def _name_of(error: sqlite3.Error) -> str:
    """Return SQLite's own name of the fault, whose text may hold paths and statements."""
    return getattr(error, "sqlite_errorname", None) or type(error).__name__
