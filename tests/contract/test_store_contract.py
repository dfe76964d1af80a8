"""What every store of the trail promises, run against each; and what SQLite promises beside."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from broker.audit.chain import TrailRecord
from broker.audit.writer import TrailStore
from broker.errors import AuditUnavailableError, BrokerError, SettingsInvalidError, StateUnavailableError
from broker.leases.record import Holder, LeaseState
from broker.store.state import SqliteStateStore
from broker.store.trail import SqliteTrailStore
from broker.store.trail_reader import SqliteTrailReader
from broker.store.writer_lock import WriterLock
from tests.fakes import fake_lease
from tests.old_states import LEASES, restore
from tests.trails import MemoryStore

TRAIL = "ab" * 16


def record(seq: int, *, trail_id: str = TRAIL, body: bytes = b'{"odd": "\xc3\xbc"} ') -> TrailRecord:
    return TrailRecord(
        trail_id=trail_id,
        seq=seq,
        time_ms=seq,
        kind="resolve",
        outcome="success",
        identity="x",
        body=body,
        hash=bytes([seq % 256]) * 32,
    )


async def commit(store: TrailStore, *commits: Sequence[TrailRecord], told: list[int] | None = None) -> None:
    """Let `store` write `commits`, and number those in `told` that it says are durable."""
    waiting, told = list(commits), [] if told is None else told
    await store.commit(lambda: waiting.pop(0) if waiting else (), lambda: told.append(len(told) + 1))


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TrailStore]:
    it: TrailStore = SqliteTrailStore(tmp_path / "audit.db") if request.param == "sqlite" else MemoryStore()
    await it.open()
    yield it
    await it.aclose()


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[SqliteTrailStore]:
    it = SqliteTrailStore(tmp_path / "audit.db", busy_seconds=0.05)
    await it.open()
    yield it
    await it.aclose()


async def test_an_empty_store_has_no_head(store: TrailStore) -> None:
    assert await store.head() is None


async def test_the_head_is_the_last_record_and_knows_the_first(store: TrailStore) -> None:
    await commit(store, [record(1, body=b"first"), record(2)])
    await commit(store, [record(3)])
    head = await store.head()
    assert head is not None
    assert (head.trail_id, head.seq, head.hash, head.first) == (TRAIL, 3, record(3).hash, b"first")


async def test_what_comes_meanwhile_is_written_in_the_same_call_and_told_commit_by_commit(store: TrailStore) -> None:
    told: list[int] = []
    await commit(store, [record(1)], [record(2), record(3)], [record(4)], told=told)
    assert told == [1, 2, 3]
    head = await store.head()
    assert head is not None
    assert head.seq == 4


async def test_a_commit_that_fails_ends_the_call_after_those_before_it_were_told(
    sqlite_store: SqliteTrailStore,
) -> None:
    told: list[int] = []
    with pytest.raises(AuditUnavailableError, match="SQLITE_CONSTRAINT"):
        await commit(sqlite_store, [record(1)], [record(1)], [record(2)], told=told)
    assert told == [1]
    head = await sqlite_store.head()
    assert head is not None
    assert head.seq == 1


async def test_closing_twice_does_nothing(store: TrailStore) -> None:
    await store.aclose()
    await store.aclose()


async def test_a_commit_is_whole_or_not_at_all(sqlite_store: SqliteTrailStore) -> None:
    await commit(sqlite_store, [record(1)])
    with pytest.raises(AuditUnavailableError, match="SQLITE_CONSTRAINT"):
        await commit(sqlite_store, [record(2), record(1)])
    head = await sqlite_store.head()
    assert head is not None
    assert head.seq == 1


async def test_another_connection_sees_the_exact_bytes_after_a_commit(
    sqlite_store: SqliteTrailStore, tmp_path: Path
) -> None:
    await commit(sqlite_store, [record(1)])
    rows = await asyncio.to_thread(_bodies, tmp_path / "audit.db")
    assert rows == [record(1).body]


def _bodies(path: Path) -> list[bytes]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT body FROM record ORDER BY seq")]
    finally:
        connection.close()


async def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first, second = SqliteTrailStore(tmp_path / "audit.db"), SqliteTrailStore(tmp_path / "audit.db")
    await first.open()
    with pytest.raises(
        SettingsInvalidError, match=rf"another broker writes this audit trail \(process {os.getpid()} on "
    ):
        await second.open()
    await first.aclose()
    await second.open()
    await second.aclose()


@pytest.mark.parametrize("note", [b"", b"twelve", b"12 a\x1bhost", b"\xff\xff 1", b"1 2 3", b"9" * 5000])
def test_a_lock_whose_note_says_nothing_is_as_good(tmp_path: Path, note: bytes) -> None:
    file = tmp_path / "audit.db.lock"
    first, second = WriterLock(file), WriterLock(file)
    first.take()
    file.write_bytes(note)
    with pytest.raises(SettingsInvalidError, match=r"\(process unknown\)"):
        second.take()
    first.give_back()
    first.give_back()
    second.take()
    assert file.read_text() == f"{os.getpid()} {os.uname().nodename}\n"
    second.give_back()


async def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    store = SqliteTrailStore(tmp_path / "state" / "audit.db")
    await store.open()
    await commit(store, [record(1)])
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "state").iterdir()}
    await store.aclose()
    assert modes == dict.fromkeys(["audit.db", "audit.db-wal", "audit.db-shm", "audit.db.lock"], 0o600)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        ("newer", "run the newer broker"),
        ("open", "chmod 600"),
        ("garbage", "no audit database"),
        ("directory", "Is a directory"),
        ("link", "symbolic link"),
    ],
)
async def test_a_file_that_can_not_be_the_trail_is_refused(tmp_path: Path, prepare: str, message: str) -> None:
    file = tmp_path / "audit.db"
    if prepare == "directory":
        file.mkdir()
    elif prepare == "link":
        file.symlink_to(tmp_path / "elsewhere.db")
    else:
        file.touch(mode=0o644 if prepare == "open" else 0o600)
    if prepare == "garbage":
        file.write_bytes(b"no database at all" * 100)
    if prepare == "newer":
        await asyncio.to_thread(_execute, file, "PRAGMA user_version = 99")
    store = SqliteTrailStore(file)
    with pytest.raises(SettingsInvalidError, match=message):
        await store.open()
    await store.aclose()


def _execute(file: Path, statement: str) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute(statement)
    connection.close()


async def test_a_removed_database_is_noticed_before_anything_is_called_durable(
    sqlite_store: SqliteTrailStore, tmp_path: Path
) -> None:
    await commit(sqlite_store, [record(1)])
    (tmp_path / "audit.db").unlink()
    with pytest.raises(AuditUnavailableError, match="removed or replaced"):
        await commit(sqlite_store, [record(2)])


async def test_a_state_database_that_was_removed_keeps_nothing_any_more(tmp_path: Path) -> None:
    store = SqliteStateStore(tmp_path / "state.db")
    await store.open()
    await store.forget_lease("lease_1")
    (tmp_path / "state.db").unlink()
    with pytest.raises(StateUnavailableError, match="the state database was removed or replaced"):
        await store.forget_lease("lease_1")
    await store.aclose()


async def test_a_file_that_can_not_be_the_state_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    file.touch(mode=0o600)
    file.write_bytes(b"no database at all" * 100)
    store = SqliteStateStore(file)
    with pytest.raises(SettingsInvalidError, match="is no state database, or a damaged one"):
        await store.open()
    await store.aclose()


async def test_a_closed_store_refuses(sqlite_store: SqliteTrailStore) -> None:
    await sqlite_store.aclose()
    with pytest.raises(AuditUnavailableError, match="closed"):
        await commit(sqlite_store, [record(1)])


async def test_a_fault_names_no_path_and_no_statement(sqlite_store: SqliteTrailStore, tmp_path: Path) -> None:
    with pytest.raises(AuditUnavailableError) as caught:
        await commit(sqlite_store, [record(1), record(1)])
    assert caught.value.detail == "the audit database can't be written (SQLITE_CONSTRAINT_UNIQUE)"
    assert caught.value.__suppress_context__


async def test_the_reader_can_not_write_and_reads_a_stopped_trail(tmp_path: Path) -> None:
    store = SqliteTrailStore(tmp_path / "audit.db")
    await store.open()
    await commit(store, [record(1)])
    await store.aclose()
    await asyncio.to_thread(_read_only, tmp_path / "audit.db")


def _read_only(file: Path) -> None:
    reader = SqliteTrailReader(file)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM record")
    reader.close()


@pytest.mark.parametrize("content", [None, b"", b"no database" * 200])
def test_a_reader_of_something_else_says_so(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "other.db"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BrokerError) as caught:
        SqliteTrailReader(file)
    assert caught.value.code == "settings_invalid"


async def test_a_state_of_the_first_schema_is_read_as_its_broker_left_it(tmp_path: Path) -> None:
    restore("state-0001", tmp_path / "state.db")
    store = SqliteStateStore(tmp_path / "state.db")
    await store.open()
    assert {record.id: record for record in await store.leases()} == {record.id: record for record in LEASES}
    assert await store.holders() == []
    await store.aclose()


async def test_holders_are_kept_with_their_lease_and_go_with_it_or_by_age(tmp_path: Path) -> None:
    store = SqliteStateStore(tmp_path / "state.db")
    await store.open()
    first, second = (
        Holder(lease=lease, certificate="1f@issuer", anchor="key", ends=ends)
        for lease, ends in (("lease_a", 1_800_000_000.0), ("lease_b", 1_900_000_000.5))
    )
    await store.keep_leases([fake_lease()], [first, second])
    # As often as its state changes, and no matter who has it.
    await store.keep_leases([fake_lease(state=LeaseState.SUPERSEDED)])
    assert sorted(await store.holders(), key=lambda holder: holder.lease) == [first, second]
    await store.forget_holders(ended_before=1_800_000_001.0)
    assert await store.holders() == [second]
    await store.keep_leases([], [replace(second, anchor="another")])
    assert await store.holders() == [replace(second, anchor="another")]
    await store.forget_lease("lease_b")
    assert await store.holders() == []
    await store.aclose()
