"""State databases that earlier brokers wrote, kept as text below `tests/data`, one folder a schema of the state.

Before a release that adds a migration, the schema of the last one gets its folder, written by that release's code:

    python -m tests.old_states tests/data/state-0001
"""

import asyncio
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from broker.leases.record import LeaseReason, LeaseState
from broker.store.state import SqliteStateStore
from tests.fakes import fake_lease

DATA = Path(__file__).parent / "data"
LEASES = (
    fake_lease(id="lease_minting", state=LeaseState.MINTING, handle="", parent="parent-1", renewable=False),
    fake_lease(id="lease_live", parent="parent-2"),
    fake_lease(id="lease_superseded", state=LeaseState.SUPERSEDED, reason=LeaseReason.REPLACED, due=1_800_000_300.0),
    fake_lease(id="lease_größe", state=LeaseState.REVOKING, reason=LeaseReason.POLICY, due=1_800_000_001.5),
)


async def _write_state(file: Path) -> None:
    store = SqliteStateStore(file)
    await store.open()
    await store.keep_leases(LEASES)
    await store.aclose()


def keep(target: Path) -> None:
    """Write a state with the code at hand, and keep it as text in `target`."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "state.db"
        asyncio.run(_write_state(file))
        with closing(sqlite3.connect(file)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            text = "\n".join([*connection.iterdump(), f"PRAGMA user_version = {version};", ""])
        target.mkdir(parents=True)
        (target / "state.sql").write_text(text)


def restore(schema: str, file: Path) -> None:
    """Make `file` the kept state of `schema`, as its broker left it."""
    file.touch(mode=0o600)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript((DATA / schema / "state.sql").read_text())


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
