"""The trail in SQLite: records and signed checkpoints, each durable before its call returns."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from broker.audit.chain import Head, TrailRecord
from broker.audit.writer import MAX_COMMIT, Take
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

    async def commit(self, take: Take, kept: Callable[[], None], /) -> None:
        """Make what `take` gives durable, commit after commit, until it gives nothing.

        Raises:
            AuditUnavailableError: One commit failed, of which `kept` was not told.

        """
        writing = _Writing(take, kept)
        await self._database.repeat(writing.write_next)
        writing.tell_of_the_last()

    async def save_checkpoint(self, note: bytes, /, *, trail_id: str, size: int) -> None:
        """Make a signed checkpoint durable. Raises: AuditUnavailableError."""
        statement = "INSERT INTO checkpoint (trail_id, size, note) VALUES (?, ?, ?)"
        await self._database.call(lambda it: it.execute(statement, (trail_id, size, note)))

    async def aclose(self) -> None:
        """Finish what was asked, close the database, and give the lock back; a second call does nothing."""
        await self._database.aclose()


class _Writing:
    """Commits without a pause between them: `write_next` runs in the store's thread."""

    def __init__(self, take: Take, kept: Callable[[], None]) -> None:
        self._take = take
        self._kept = kept
        self._loop = asyncio.get_running_loop()
        self._records: Sequence[TrailRecord] = ()
        self._is_untold = False

    def write_next(self, connection: sqlite3.Connection) -> bool:
        """Write what waits, and tell whether more has come meanwhile."""
        records = self._records or self._take()
        if not records:
            return False
        # Outside of a transaction a statement is one of its own, and durable when it returns.
        connection.execute(_insert(len(records)), _columns(records))
        self._records = self._take()
        self._is_untold = not self._records
        if not self._is_untold:
            # A loop that was closed meanwhile has nobody left who waits.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._kept)
        return not self._is_untold

    def tell_of_the_last(self) -> None:
        """Tell of the commit after which nothing came: the end of the writing wakes the loop for it anyway."""
        if self._is_untold:
            self._kept()


# One statement for all: the thread gives the interpreter away and asks for it back at each step of a statement. The
# process may keep its text, which hangs on the argument alone.
@lru_cache(maxsize=MAX_COMMIT)
def _insert(count: int) -> str:
    return _INSERT + ", ".join([_ROW] * count)


def _columns(records: Iterable[TrailRecord]) -> list[object]:
    return [
        value
        for one in records
        for value in (one.trail_id, one.seq, one.time_ms, one.kind, one.outcome, one.identity, one.body, one.hash)
    ]


def _head(connection: sqlite3.Connection) -> Head | None:
    row = connection.execute("SELECT trail_id, seq, hash FROM record ORDER BY seq DESC LIMIT 1").fetchone()
    if row is None:
        return None
    first = connection.execute("SELECT body FROM record WHERE trail_id = ? AND seq = 1", row[:1]).fetchone()
    return Head(trail_id=row[0], seq=row[1], hash=row[2], first=first[0] if first else b"{}")
