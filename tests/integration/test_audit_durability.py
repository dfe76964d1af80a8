"""The trail on a real database: durable before `append` returns, real faults, a process killed in the middle."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from broker.audit.search import Query, search
from broker.audit.trail import Trail
from broker.errors import AuditUnavailableError
from broker.store.trail import SqliteTrailStore
from broker.store.trail_reader import SqliteTrailReader
from tests.trails import checked, event, running
from tests.waiting import until


def bodies(directory: Path) -> list[str]:
    reader = SqliteTrailReader(directory / "audit.db")
    try:
        return [record.body.decode() for record in search(reader, query=Query())]
    finally:
        reader.close()


async def test_another_connection_sees_the_record_when_append_returns(tmp_path: Path) -> None:
    async with running(tmp_path) as trail:
        for number in range(5):
            await trail.append(event(reference=f"env:NAME{number}"))
            assert f"env:NAME{number}" in (await asyncio.to_thread(bodies, tmp_path))[-1]


async def test_a_commit_is_on_the_disk_and_not_only_in_the_cache(tmp_path: Path) -> None:
    store = SqliteTrailStore(tmp_path / "audit.db")
    await store.open()
    pragmas = await store._database.call(lambda _: [_pragma(store, name) for name in ("synchronous", "journal_mode")])
    await store.aclose()
    assert pragmas == [2, "wal"]


def _pragma(store: SqliteTrailStore, name: str) -> object:
    return _connection(store).execute(f"PRAGMA {name}").fetchone()[0]


def _connection(store: SqliteTrailStore) -> sqlite3.Connection:
    assert store._database._connection is not None
    return store._database._connection


def fill_up(store: SqliteTrailStore) -> Callable[[], object]:
    connection = _connection(store)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    return lambda: connection.execute("PRAGMA max_page_count = 1000000")


def make_read_only(store: SqliteTrailStore) -> Callable[[], object]:
    connection = _connection(store)
    connection.execute("PRAGMA query_only = ON")
    return lambda: connection.execute("PRAGMA query_only = OFF")


def lock_from_outside(store: SqliteTrailStore) -> Callable[[], object]:
    other = sqlite3.connect(store._database._path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    return other.close


@pytest.mark.parametrize(
    ("fault", "name"),
    [(fill_up, "SQLITE_FULL"), (make_read_only, "SQLITE_READONLY"), (lock_from_outside, "SQLITE_BUSY")],
)
async def test_a_database_that_can_not_be_written_refuses_and_comes_back_by_itself(
    tmp_path: Path, fault: Callable[[SqliteTrailStore], Callable[[], object]], name: str
) -> None:
    store = SqliteTrailStore(tmp_path / "audit.db", busy_seconds=0.05)
    async with running(tmp_path, store, probe_seconds=0.02) as trail:
        await trail.append(event())
        end = await store._database.call(lambda _: fault(store))
        with pytest.raises(AuditUnavailableError, match=name):
            await _write(trail, 1600, reference="env:" + "X" * 1000)
        assert not trail.healthy
        failing_since = trail.state.since
        with pytest.raises(AuditUnavailableError):
            await trail.append(event())
        await store._database.call(lambda _: end())
        await until(lambda: trail.healthy)
        assert trail.state.since >= failing_since
        await trail.append(event(reference="env:AFTER"))
    report = await asyncio.to_thread(checked, tmp_path)
    assert report.good, report.findings
    kept = await asyncio.to_thread(bodies, tmp_path)
    assert "env:AFTER" in kept[-1]
    assert json.loads(kept[-2])["reason"] == "recovered"
    assert json.loads(kept[-2])["details"]["refused_events"] >= 2


async def test_a_trail_goes_on_after_a_restart(tmp_path: Path) -> None:
    for _ in range(3):
        async with running(tmp_path) as trail:
            await asyncio.gather(*(trail.append(event()) for _ in range(20)))
    report = await asyncio.to_thread(checked, tmp_path)
    assert report.good, report.findings
    assert report.records == 61


async def test_search_and_verification_work_while_the_trail_is_written(tmp_path: Path) -> None:
    async with running(tmp_path, checkpoint_events=20) as trail:
        writing = asyncio.create_task(_write(trail, 400))
        sizes = []
        while not writing.done():
            report = await asyncio.to_thread(checked, tmp_path)
            assert report.good, report.findings
            sizes.append(report.records)
        await writing
    assert all(one <= next_one for one, next_one in pairwise(sizes))
    assert len(await asyncio.to_thread(bodies, tmp_path)) == 401


async def _write(trail: Trail, count: int, reference: str = "env:NAME") -> None:
    for _ in range(count // 8):
        await asyncio.gather(*(trail.append(event(reference=reference)) for _ in range(8)))


WRITER = """
import asyncio, sys
from pathlib import Path
from tests.trails import running, event
async def one(trail, number):
    while True:
        await trail.append(event(reference=f"env:N{number}"))
        print(number, flush=True)
async def main():
    async with running(Path(sys.argv[1]), checkpoint_events=7) as trail:
        await asyncio.gather(*(one(trail, number) for number in range(16)))
asyncio.run(main())
"""


def test_a_process_killed_in_the_middle_of_commits_leaves_a_whole_chain_with_all_that_it_promised(
    tmp_path: Path,
) -> None:
    promised = 0
    for _ in range(3):
        promised += _run_and_kill(tmp_path)
        report = checked(tmp_path)
        assert report.good, report.findings
        assert sum('"kind":"resolve"' in body for body in bodies(tmp_path)) >= promised
    assert promised >= 300


def _run_and_kill(directory: Path) -> int:
    """Let a writer go until it has promised a hundred records, kill it, and return how many it promised."""
    command = [sys.executable, "-c", WRITER, str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(100)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    return sum(line.endswith("\n") for line in lines)


def test_a_second_process_on_the_same_trail_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout is not None
        first.stdout.readline()
        second = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30, check=False)
        first.kill()
    assert second.returncode != 0
    assert f"another broker writes this audit trail (process {first.pid} on " in second.stderr
