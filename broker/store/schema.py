"""The tables of the SQLite files, and how an older file becomes a present one."""

import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from broker.errors import AuditUnavailableError, BrokerError, SettingsInvalidError, StateUnavailableError
from broker.logs import EventLogger

_LOG: Final = EventLogger("broker.store")

RECORD_COLUMNS: Final = "trail_id, seq, time_ms, kind, outcome, identity, body, hash"


@dataclass(frozen=True, slots=True)
class Tables:
    """A file's name in messages, the steps to its tables, and the error that says that it can't be written."""

    name: str
    folder: str
    unavailable: type[BrokerError]

    def steps(self) -> list[str]:
        """Return the statements of each step, the first step first."""
        found = [file for file in (files("broker.store") / self.folder).iterdir() if file.name.endswith(".sql")]
        return [file.read_text(encoding="utf-8") for file in sorted(found, key=lambda file: file.name)]


AUDIT: Final = Tables("audit", "migrations", AuditUnavailableError)
STATE: Final = Tables("state", "state_migrations", StateUnavailableError)


def schema_version(tables: Tables = AUDIT) -> int:
    """Return the newest schema that this broker knows."""
    return len(tables.steps())


def migrate(connection: sqlite3.Connection, tables: Tables, *, name: str) -> None:
    """Bring the tables up to date, each step in a transaction of its own.

    Raises:
        SettingsInvalidError: The database was written by a newer broker.
        AuditUnavailableError: A step failed, and left the database as it was; for the state StateUnavailableError.
        sqlite3.Error: The database can't be read, or not be begun.

    """
    steps = tables.steps()
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise SettingsInvalidError(newer(name, version, tables))
    for number, step in enumerate(steps[version:], version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            if number == 1:
                raise
            message = (
                f"{name}: the step from schema {number - 1} to {number} failed ({fault_of(error)}); the database is "
                f"as it was at schema {number - 1}, and a broker of that schema still runs with it"
            )
            raise tables.unavailable(message) from None
    # A file that was just made is no upgrade.
    if 0 < version < len(steps):
        _LOG.info("schema_upgraded", database=name, before=version, after=len(steps))


def newer(name: str, version: int, tables: Tables = AUDIT) -> str:
    """Return what to tell about a database of a broker to come."""
    return (
        f"{name}: has schema {version}, and this broker knows {schema_version(tables)}; run the newer broker again, or "
        "put back the copy of the state directory from before the upgrade"
    )


def fault_of(error: sqlite3.Error) -> str:
    """Return SQLite's own name of the fault, whose text may hold paths and statements."""
    return getattr(error, "sqlite_errorname", None) or type(error).__name__
