"""The tables of the SQLite store, and how an older file becomes a present one."""

import sqlite3
from contextlib import suppress
from importlib.resources import files
from typing import Final

from broker.errors import SettingsInvalidError

RECORD_COLUMNS: Final = "trail_id, seq, time_ms, kind, outcome, identity, body, hash"


def schema_version() -> int:
    """Return the newest schema that this broker knows."""
    return len(_steps())


def migrate(connection: sqlite3.Connection, *, name: str) -> None:
    """Bring the tables up to date, each step in a transaction of its own.

    Raises:
        SettingsInvalidError: The database was written by a newer broker.
        sqlite3.Error: The database can't be written.

    """
    steps = _steps()
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        message = f"{name}: has schema {version}, and this broker knows {len(steps)}; run the newer broker again"
        raise SettingsInvalidError(message)
    for number, step in enumerate(steps[version:], version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise


def fault_of(error: sqlite3.Error) -> str:
    """Return SQLite's own name of the fault, whose text may hold paths and statements."""
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def _steps() -> list[str]:
    found = [file for file in (files("broker.store") / "migrations").iterdir() if file.name.endswith(".sql")]
    return [file.read_text(encoding="utf-8") for file in sorted(found, key=lambda file: file.name)]
