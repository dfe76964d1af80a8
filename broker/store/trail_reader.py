"""The trail in SQLite, read beside the broker that writes it."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from broker.audit.chain import TrailRecord
from broker.audit.search import Query
from broker.errors import SettingsInvalidError
from broker.store.schema import RECORD_COLUMNS, fault_of, newer, schema_version

_PAGE: Final = 512


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
                f"SELECT rowid, {RECORD_COLUMNS} FROM record WHERE {' AND '.join(where)} "  # noqa: S608  Our own words.
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
        if version > schema_version():
            connection.close()
            raise SettingsInvalidError(newer(str(self._path), version))
        if version < 1:
            connection.close()
            message = f"{self._path}: is no audit database of a broker"
            raise SettingsInvalidError(message)
        return connection

    def _fetch(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: sqlite3.Error) -> SettingsInvalidError:
        fault = fault_of(error)
        # Another database, whole as it is, has no table of ours.
        hint = "; is it the broker's audit.db?" if fault == "SQLITE_ERROR" else ""
        return SettingsInvalidError(f"{self._path}: can't be read ({fault}){hint}")


def _conditions(query: Query) -> tuple[list[str], list[object]]:
    pairs: list[tuple[str, list[object]]] = [("seq > ?", [query.after])]
    if query.kind is not None:
        pairs.append(("kind = ?", [query.kind.value]))
    if query.outcome is not None:
        # The word itself and no placeholder: the index over failures alone is found by it.
        pairs.append((f"outcome = '{query.outcome.value}'", []))
    if query.since_ms is not None:
        pairs.append(("time_ms >= ?", [query.since_ms]))
    if query.until_ms is not None:
        pairs.append(("time_ms < ?", [query.until_ms]))
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
