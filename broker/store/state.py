"""The broker's state in SQLite: what it must remember over a restart, and no value."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from broker.errors import SettingsInvalidError
from broker.identity import IdentityKind
from broker.leases.record import LeaseReason, LeaseRecord, LeaseState
from broker.store.database import Database
from broker.store.schema import STATE, fault_of, newer, schema_version

_COLUMNS: Final = (
    "id, provider, source, identity_kind, identity, state, reason, handle, parent, renewable, created_ms, expires_ms, "
    "due_ms"
)
_SELECT: Final = f"SELECT {_COLUMNS} FROM lease ORDER BY created_ms, id"  # noqa: S608  A constant.
_KEEP: Final = f"INSERT OR REPLACE INTO lease ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608


class SqliteStateStore:
    """Keep the state in one file, as its only writer: the lock of the trail beside it keeps a second broker away."""

    def __init__(self, path: Path, *, busy_seconds: float = 2.0) -> None:
        """Take the file; nothing is opened before `open`."""
        self._database = Database(path, tables=STATE, busy_seconds=busy_seconds)

    async def open(self) -> None:
        """Open the database, and bring its tables up to date.

        Raises:
            SettingsInvalidError: It is open to others, newer, or no such database.
            StateUnavailableError: It can't be written now.

        """
        await self._database.open()

    async def leases(self) -> Sequence[LeaseRecord]:
        """Return every record. Raises: StateUnavailableError."""
        return await self._database.call(lambda it: [_record(row) for row in it.execute(_SELECT)])

    async def keep_leases(self, records: Sequence[LeaseRecord], /) -> None:
        """Keep all of `records`, or none, each in place of the one with the same id. Raises: StateUnavailableError."""
        rows = [_row(record) for record in records]
        await self._database.call(lambda it: _keep(it, rows))

    async def forget_lease(self, lease_id: str, /) -> None:
        """Let go of one record. Raises: StateUnavailableError."""
        await self._database.call(lambda it: it.execute("DELETE FROM lease WHERE id = ?", (lease_id,)))

    async def aclose(self) -> None:
        """Finish what was asked and close the database; a second call does nothing."""
        await self._database.aclose()


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


def _keep(connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(_KEEP, rows)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


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
