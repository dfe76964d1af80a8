"""The broker's state in SQLite: what it must remember over a restart, and no value."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from broker.errors import SettingsInvalidError, StateUnavailableError
from broker.identity import IdentityKind
from broker.leases.record import LeaseReason, LeaseRecord, LeaseState
from broker.store.database import connect, create_private
from broker.store.schema import STATE, fault_of, migrate, newer, schema_version
from broker.store.thread import StoreThread

_T = TypeVar("_T")
_COLUMNS: Final = (
    "id, provider, source, identity_kind, identity, state, reason, handle, parent, renewable, created_ms, expires_ms, "
    "due_ms"
)
_SELECT: Final = f"SELECT {_COLUMNS} FROM lease ORDER BY created_ms, id"  # noqa: S608  A constant.
_KEEP: Final = f"INSERT OR REPLACE INTO lease ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_UNREADABLE: Final = {"SQLITE_NOTADB", "SQLITE_CORRUPT"}


class SqliteStateStore:
    """Keep the state in one file, as its only writer: the lock of the trail beside it keeps a second broker away."""

    def __init__(self, path: Path, *, busy_seconds: float = 2.0) -> None:
        """Take the file; nothing is opened before `open`."""
        self._path = path
        self._busy_seconds = busy_seconds
        self._thread = StoreThread(name="state-store")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the database, and bring its tables up to date.

        Raises:
            SettingsInvalidError: It is open to others, newer, or no such database.
            StateUnavailableError: It can't be written now.

        """
        self._thread.start()
        await self._call(self._open)

    async def leases(self) -> Sequence[LeaseRecord]:
        """Return every record. Raises: StateUnavailableError."""
        return await self._call(lambda: [_record(row) for row in self._usable().execute(_SELECT)])

    async def keep_leases(self, records: Sequence[LeaseRecord], /) -> None:
        """Keep all of `records`, or none, each in place of the one with the same id. Raises: StateUnavailableError."""
        rows = [_row(record) for record in records]
        await self._call(lambda: self._write(_KEEP, rows))

    async def forget_lease(self, lease_id: str, /) -> None:
        """Let go of one record. Raises: StateUnavailableError."""
        await self._call(lambda: self._write("DELETE FROM lease WHERE id = ?", [(lease_id,)]))

    async def aclose(self) -> None:
        """Finish what was asked and close the database; a second call does nothing."""
        await self._thread.aclose(self._close)

    async def _call(self, function: Callable[[], _T]) -> _T:
        if not self._thread.runs:
            message = "the state database is closed"
            raise StateUnavailableError(message)
        try:
            return await self._thread.submit(function)
        except sqlite3.Error as error:
            message = f"the state database can't be used ({fault_of(error)})"
            raise StateUnavailableError(message) from None

    def _open(self) -> None:
        create_private(self._path)
        try:
            self._connection = connect(
                self._path, busy_seconds=self._busy_seconds, prepare=lambda it: migrate(it, STATE, name=str(self._path))
            )
        except sqlite3.Error as error:
            if fault_of(error) not in _UNREADABLE:
                raise
            message = f"{self._path}: is no state database, or a damaged one ({fault_of(error)})"
            raise SettingsInvalidError(message) from None

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        connection = self._usable()
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(statement, rows)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _usable(self) -> sqlite3.Connection:
        if self._connection is None:
            message = "the state database is closed"
            raise StateUnavailableError(message)
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def read_leases(path: Path) -> Iterator[LeaseRecord]:
    """Yield every record in the file, beside a broker that may be writing it. Blocks.

    Raises:
        SettingsInvalidError: The file is missing, unreadable, newer, or no state database.

    """
    if not path.is_file():
        message = f"{path}: no such file; --database names the `state.db` of the broker's state directory"
        raise SettingsInvalidError(message)
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=5.0)) as it:
            version = it.execute("PRAGMA user_version").fetchone()[0]
            if version > schema_version(STATE):
                raise SettingsInvalidError(newer(str(path), version, STATE))
            rows = it.execute(_SELECT).fetchall()
    except sqlite3.Error as error:
        message = f"{path}: can't be read as a state database ({fault_of(error)})"
        raise SettingsInvalidError(message) from None
    yield from map(_record, rows)


def _row(record: LeaseRecord) -> tuple[object, ...]:
    return (
        record.id,
        record.provider,
        record.source,
        record.identity_kind.value,
        record.identity,
        record.state.value,
        record.reason.value,
        record.handle,
        record.parent,
        int(record.renewable),
        round(record.created * 1000),
        round(record.expires * 1000),
        None if record.due is None else round(record.due * 1000),
    )


def _record(row: tuple[Any, ...]) -> LeaseRecord:
    return LeaseRecord(
        id=row[0],
        provider=row[1],
        source=row[2],
        identity_kind=IdentityKind(row[3]),
        identity=row[4],
        state=LeaseState(row[5]),
        reason=LeaseReason(row[6]),
        handle=row[7],
        parent=row[8],
        renewable=bool(row[9]),
        created=row[10] / 1000,
        expires=row[11] / 1000,
        due=None if row[12] is None else row[12] / 1000,
    )
