"""A SQLite file that nobody else may read, and its one writer, with a thread and a connection of its own.

`synchronous=FULL` in WAL mode makes a commit durable before it returns. All calls of the one connection run in
the order asked on one thread, so whatever one of them reads, no earlier commit lands after it.
"""

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from broker.errors import BrokerError, SettingsInvalidError
from broker.store.schema import Tables, fault_of, migrate
from broker.store.thread import StoreThread
from broker.store.writer_lock import WriterLock

_T = TypeVar("_T")
_UNREADABLE: Final = {"SQLITE_NOTADB", "SQLITE_CORRUPT"}


class Database:
    """Let functions write one file; `tables.unavailable` is what each call raises when it can't be written."""

    def __init__(self, path: Path, *, tables: Tables, busy_seconds: float, lock: WriterLock | None = None) -> None:
        """Take the file; nothing is opened before `open`.

        Args:
            path: The file, which is made with mode 0600.
            tables: What is in it.
            busy_seconds: How long another program's lock is waited for.
            lock: Held as long as it is open, so that no other broker writes it.

        """
        self._path = path
        self._tables = tables
        self._busy_seconds = busy_seconds
        self._lock = lock
        self._thread = StoreThread(name=f"{tables.name}-store")
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    async def open(self) -> None:
        """Open the file, and bring its tables up to date.

        Raises:
            SettingsInvalidError: Another process writes it, it is open to others, newer, or no such database.
            BrokerError: It can't be written now.

        """
        self._thread.start()
        await self._submit(self._open)

    async def call(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return what `work` returns, after it was done in the thread. Raises: BrokerError, it can't be written."""
        return await self._submit(lambda: self._do(work))

    async def repeat(self, step: Callable[[sqlite3.Connection], bool]) -> None:
        """Do `step` in the thread again and again, as long as it says that there is more. Raises: as `call`."""
        await self._submit(lambda: self._do_all(step))

    async def aclose(self) -> None:
        """Finish what was asked, close the file, and give the lock back; a second call does nothing."""
        await self._thread.aclose(self._close)

    async def _submit(self, function: Callable[[], _T]) -> _T:
        if not self._thread.runs:
            raise self._closed()
        return await self._thread.submit(function)

    def _do(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            return work(self._usable())
        except sqlite3.Error as error:
            raise self._unavailable(error) from None

    def _do_all(self, step: Callable[[sqlite3.Connection], bool]) -> None:
        while self._do(step):
            pass

    def _open(self) -> None:
        if self._lock is not None:
            self._lock.take()
        self._file = _create_private(self._path)
        try:
            self._connection = _connect(
                self._path,
                busy_seconds=self._busy_seconds,
                prepare=lambda it: migrate(it, self._tables, name=str(self._path)),
            )
        except sqlite3.Error as error:
            if fault_of(error) in _UNREADABLE:
                message = f"{self._path}: is no {self._tables.name} database, or a damaged one ({fault_of(error)})"
                raise SettingsInvalidError(message) from None
            raise self._unavailable(error) from None

    def _usable(self) -> sqlite3.Connection:
        """Return the connection if its file is still the one that others see under its name."""
        if self._connection is None:
            raise self._closed()
        try:
            status = os.stat(self._path)  # noqa: PTH116  Before each commit; pathlib costs three times as much.
        except OSError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._file:
            message = f"the {self._tables.name} database was removed or replaced while the broker wrote it"
            raise self._tables.unavailable(message)
        return self._connection

    def _unavailable(self, error: sqlite3.Error) -> BrokerError:
        return self._tables.unavailable(f"the {self._tables.name} database can't be written ({fault_of(error)})")

    def _closed(self) -> BrokerError:
        return self._tables.unavailable(f"the {self._tables.name} database is closed")

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
        if self._lock is not None:
            self._lock.give_back()


def _create_private(path: Path) -> tuple[int, int]:
    """Create the file with mode 0600, and return its device and inode; its WAL gets the same mode from SQLite.

    Raises:
        SettingsInvalidError: It can't be opened, or others may read it.

    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise SettingsInvalidError(message) from None
    status = os.fstat(descriptor)
    os.close(descriptor)
    if stat.S_IMODE(status.st_mode) & 0o077:
        message = f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets others at it; chmod 600 {path}"
        raise SettingsInvalidError(message)
    return status.st_dev, status.st_ino


def _connect(path: Path, *, busy_seconds: float, prepare: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
    """Return a connection whose commits are durable when they return, after `prepare` has seen it.

    Raises:
        sqlite3.Error: The file can't be used; also whatever `prepare` raises.

    """
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute("PRAGMA trusted_schema = OFF")
        prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection
