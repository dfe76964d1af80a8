"""A SQLite file that nobody else may read, opened for durable writes. Everything here blocks."""

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

from broker.errors import SettingsInvalidError


def create_private(path: Path) -> tuple[int, int]:
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


def connect(path: Path, *, busy_seconds: float, prepare: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
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
