"""The broker's state in SQLite: what it must remember over a restart, and no value."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from broker.errors import SettingsInvalidError
from broker.identity import IdentityKind
from broker.leases.record import Holder, LeaseReason, LeaseRecord, LeaseState
from broker.store.database import Database
from broker.store.schema import STATE, fault_of, newer, schema_version

_COLUMNS: Final = (
    "id, provider, source, identity_kind, identity, state, reason, handle, parent, renewable, created_ms, expires_ms, "
    "due_ms"
)
_SELECT: Final = f"SELECT {_COLUMNS} FROM lease ORDER BY created_ms, id"  # noqa: S608  A constant.
_KEEP: Final = f"INSERT OR REPLACE INTO lease ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608

_HOLDERS: Final = "lease, certificate, anchor, ends_ms"
_SELECT_HOLDERS: Final = f"SELECT {_HOLDERS} FROM holder"  # noqa: S608  A constant.
_KEEP_HOLDER: Final = f"INSERT OR REPLACE INTO holder ({_HOLDERS}) VALUES (?, ?, ?, ?)"  # noqa: S608  As above.


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

    async def holders(self) -> Sequence[Holder]:
        """Return every holder of every lease. Raises: StateUnavailableError."""
        return await self._database.call(lambda it: [_holder(row) for row in it.execute(_SELECT_HOLDERS)])

    async def keep_leases(self, records: Sequence[LeaseRecord], holders: Sequence[Holder] = (), /) -> None:
        """Keep all of them, or none, each in place of the one with the same name. Raises: StateUnavailableError."""
        rows = [_row(record) for record in records]
        held = [(each.lease, each.certificate, each.anchor, round(each.ends * 1000)) for each in holders]

        def keep(connection: sqlite3.Connection) -> None:
            connection.executemany(_KEEP, rows)
            connection.executemany(_KEEP_HOLDER, held)

        await self._database.call(lambda it: _as_one(it, keep))

    async def forget_holders(self, *, ended_before: float) -> None:
        """Let go of the holders that ended before this wall time. Raises: StateUnavailableError."""
        moment = round(ended_before * 1000)
        await self._database.call(lambda it: it.execute("DELETE FROM holder WHERE ends_ms < ?", (moment,)))

    async def forget_lease(self, lease_id: str, /) -> None:
        """Let go of one record and its holders. Raises: StateUnavailableError."""

        def forget(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM lease WHERE id = ?", (lease_id,))
            connection.execute("DELETE FROM holder WHERE lease = ?", (lease_id,))

        await self._database.call(lambda it: _as_one(it, forget))

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


def _as_one(connection: sqlite3.Connection, write: Callable[[sqlite3.Connection], None]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        write(connection)
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


def _holder(row: tuple[Any, ...]) -> Holder:
    return Holder(lease=row[0], certificate=row[1], anchor=row[2], ends=row[3] / 1000)
