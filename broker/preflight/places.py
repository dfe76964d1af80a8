"""Where the broker listens and where it keeps its state: looked at, and left as it was found."""

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from broker.finding import Finding, FoundError, Severity
from broker.key_file import read_private
from broker.web.listening.binding import bind

_KEYS: Final = ("token.key", "checkpoint.key", "fingerprint.key")
_DATABASES: Final = ("audit.db", "state.db")
_MEBIBYTE: Final = 1024 * 1024
_NEEDED_BYTES: Final = 16 * _MEBIBYTE
_WANTED_BYTES: Final = 256 * _MEBIBYTE


def examine_addresses(agents: tuple[str, int], operations: tuple[str, int]) -> Iterator[Finding]:
    """Find addresses that can't be listened at; each is bound for a moment, and let go."""
    if agents == operations and agents[1]:
        why = f"both listeners want port {agents[1]} on {agents[0]}"
        yield Finding(code="address_twice", where="operations.port", why=why, fix="choose another port for one")
        return
    for where, (host, port) in (("listen", agents), ("operations", operations)):
        try:
            bind(host, port).close()
        except FoundError as error:
            yield replace(error.finding, where=f"{where}: {error.finding.where}")


def examine_state(directory: Path) -> Iterator[Finding]:
    """Find why nothing could be kept in `directory`, without making anything in it. Blocks."""
    where = str(directory)
    place = _nearest(directory)
    if not place.is_dir():
        why = f"{place} is no directory"
        yield Finding(code="state_no_directory", where=where, why=why, fix="name a directory in state_directory")
        return
    if not _may_write(place):
        why = f"the broker's user may not write in {place}, or its file system is read-only"
        fix = f"mount it writable, and run: chown {os.geteuid()} {place}"
        yield Finding(code="state_not_writable", where=where, why=why, fix=fix)
        return
    free = shutil.disk_usage(place).free
    if free < _WANTED_BYTES:
        yield Finding(
            code="state_space",
            where=where,
            why=f"has {free // _MEBIBYTE} MiB left; when it is full, nothing is answered any more",
            fix="make room",
            severity=Severity.ERROR if free < _NEEDED_BYTES else Severity.WARNING,
        )
    if place == directory:
        yield from _examine_contents(directory)


def _examine_contents(directory: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o077:
        yield Finding(
            code="state_open",
            where=str(directory),
            why=f"mode {mode:04o} lets others look at the audit trail, or change it",
            fix=f"run: chmod 700 {directory}",
            severity=Severity.ERROR if mode & 0o022 else Severity.WARNING,
        )
    for key in (directory / name for name in _KEYS):
        if key.exists():
            try:
                read_private(key)
            except FoundError as error:
                yield error.finding
    for database in (directory / name for name in _DATABASES):
        if database.exists():
            yield from _examine_database(database)


def _examine_database(database: Path) -> Iterator[Finding]:
    where, mode = str(database), stat.S_IMODE(database.stat().st_mode)
    if mode & 0o077:
        why = f"mode {mode:04o} lets others at it"
        yield Finding(code="state_open", where=where, why=why, fix=f"run: chmod 600 {database}")
    if not os.access(database, os.R_OK | os.W_OK):
        why = "the broker's user may not write to it"
        yield Finding(code="state_not_writable", where=where, why=why, fix=f"run: chown {os.geteuid()} {database}")


def _nearest(directory: Path) -> Path:
    """Return `directory`, or the nearest one above it that is there."""
    return next((place for place in (directory, *directory.parents) if place.exists()), Path("/"))


def _may_write(directory: Path) -> bool:
    # The kernel answers for modes, access lists and read-only file systems alike.
    return os.access(directory, os.W_OK | os.X_OK)
