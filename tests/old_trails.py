"""Trails that released brokers wrote, kept as text below `tests/data`, one folder a schema.

Before a release that adds a migration, the schema of the last one gets its folder, written by that release's code:

    python -m tests.old_trails tests/data/schema-0001

The signing key in it was made for this and has never signed anything else.
"""

import asyncio
import sqlite3
import sys
import tempfile
from pathlib import Path

from broker.audit.event import AuditEvent, EventKind, Outcome, ReferenceRecord
from tests.trails import event, running

DATA = Path(__file__).parent / "data"
SIDE_FILES = ("checkpoints.log", "checkpoint.key")
EVENTS = 25


async def _write_trail(directory: Path) -> None:
    async with running(directory, checkpoint_events=10) as trail:
        for number in range(EVENTS - 2):
            await trail.append(event(reference=f"vault:secret/logflux/größe-{number}#api_key"))
        await trail.append(
            AuditEvent(
                kind=EventKind.AUTHENTICATION, outcome=Outcome.FAILURE, identity="dns:a\u2028b", reason="no_rule"
            )
        )
        refused = ReferenceRecord(reference="env:LOGFLUX_PAT", status="denied", reason="no_rule")
        await trail.append(AuditEvent(kind=EventKind.RESOLVE, outcome=Outcome.FAILURE, references=(refused,)))


def keep(target: Path) -> None:
    """Write a trail with the code at hand, and keep it as text in `target`."""
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(_write_trail(Path(name)))
        connection = sqlite3.connect(Path(name) / "audit.db")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        text = "\n".join([*connection.iterdump(), f"PRAGMA user_version = {version};", ""])
        connection.close()
        target.mkdir(parents=True)
        (target / "audit.sql").write_text(text)
        for file in SIDE_FILES:
            (target / file).write_bytes((Path(name) / file).read_bytes())


def restore(schema: str, directory: Path) -> Path:
    """Put the kept trail of `schema` into `directory`, as its broker left it, and return the database."""
    directory.mkdir(mode=0o700, parents=True)
    for file in SIDE_FILES:
        (directory / file).touch(mode=0o600)
        (directory / file).write_bytes((DATA / schema / file).read_bytes())
    database = directory / "audit.db"
    database.touch(mode=0o600)
    connection = sqlite3.connect(database)
    connection.executescript((DATA / schema / "audit.sql").read_text())
    connection.close()
    return database


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
