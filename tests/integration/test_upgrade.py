"""Upgrade and rollback, as an operator meets them: whole brokers on a trail that a released one wrote.

The broker to come is this one with one migration more, in a copy of the package.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.cli.child import process, wait_for
from broker.cli.sandbox import Sandbox, sandbox
from broker.store.schema import schema_version
from tests.old_trails import EVENTS, restore
from tests.running import RunningBroker

ROOT = Path(__file__).parents[2]
LAST = f"schema-{schema_version():04}"
COLUMN = "ALTER TABLE record ADD COLUMN tenant TEXT NOT NULL DEFAULT '';\nCREATE INDEX by_tenant ON record (tenant);\n"
# Grows the database for as long as nobody stops it.
ENDLESS = """
CREATE TABLE filler (data BLOB) STRICT;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000)
INSERT INTO filler SELECT randomblob(4096) FROM n;
"""


@dataclass(frozen=True)
class Release:
    """A broker's package, in this tree or in a copy."""

    packages: Path

    def command(self, *arguments: str) -> list[str]:
        # Without -P the folder in which the test runs would come first.
        return [sys.executable, "-P", "-m", "broker", *arguments]

    def environment(self, state: Path) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.packages), "LOGFLUX_STATE_DIRECTORY": str(state)}

    def run(self, state: Path, *arguments: str, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [*wrapper, *self.command(*arguments)]
        return subprocess.run(
            command, env=self.environment(state), capture_output=True, text=True, timeout=60, check=False
        )


NOW = Release(ROOT)


@pytest.fixture(scope="module")
def place() -> Iterator[Sandbox]:
    with sandbox(fresh_for="5m") as it:
        yield it


@pytest.fixture
def state(tmp_path: Path) -> Path:
    restore(LAST, tmp_path / "state")
    return tmp_path / "state"


def next_release(directory: Path, migration: str) -> Release:
    copy = directory / "next"
    shutil.copytree(ROOT / "broker", copy / "broker", ignore=shutil.ignore_patterns("__pycache__"))
    name = f"{schema_version() + 1:04}.sql"
    (copy / "broker" / "store" / "migrations" / name).write_text(migration)
    return Release(copy)


@contextmanager
def serving(release: Release, place: Sandbox, state: Path) -> Iterator[RunningBroker]:
    command = release.command("serve", "--config", str(place.settings_file))
    with process(command, log=state.parent / "broker.log", environment=release.environment(state)) as child:
        wait_for(f"http://127.0.0.1:{place.operations_port}/readyz", child)
        yield RunningBroker(place, child)
        child.handle.send_signal(signal.SIGTERM)
        assert child.handle.wait(timeout=20) == 0


def start(
    release: Release, place: Sandbox, state: Path, *, wrapper: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return release.run(state, "serve", "--config", str(place.settings_file), wrapper=wrapper)


def schema_of(state: Path) -> int:
    with closing(sqlite3.connect(state / "audit.db")) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def records(state: Path) -> int:
    with closing(sqlite3.connect(state / "audit.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM record").fetchone()[0])


def tables(state: Path) -> set[str]:
    with closing(sqlite3.connect(state / "audit.db")) as connection:
        return {str(row[0]) for row in connection.execute("SELECT sql FROM sqlite_master")}


def assert_verifies(release: Release, state: Path) -> None:
    done = release.run(state, "audit", "verify", "--database", str(state / "audit.db"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chain_goes_on_over_an_upgrade(place: Sandbox, state: Path, tmp_path: Path) -> None:
    release, before = next_release(tmp_path, COLUMN), records(state)
    assert before >= EVENTS
    with serving(release, place, state) as broker:
        assert broker.resolve("env:LOGFLUX_PAT").status == 200
        lines = [json.loads(line) for line in broker.log.splitlines()]
    [upgraded] = [line for line in lines if line["event"] == "schema_upgraded"]
    assert (upgraded["before"], upgraded["after"]) == (schema_version(), schema_version() + 1)
    assert schema_of(state) == schema_version() + 1
    # Start, resolve and stop.
    assert records(state) == before + 3
    assert_verifies(release, state)


def test_a_database_of_a_newer_broker_is_refused_and_left_alone(place: Sandbox, state: Path, tmp_path: Path) -> None:
    release = next_release(tmp_path, COLUMN)
    with serving(release, place, state):
        pass
    before = records(state)
    refused = start(NOW, place, state)
    assert refused.returncode == 3
    assert f"audit.db: has schema {schema_version() + 1}, and this broker knows {schema_version()}" in refused.stderr
    assert "put back the copy" in refused.stderr
    read = NOW.run(state, "audit", "verify", "--database", str(state / "audit.db"))
    assert read.returncode == 3
    assert "run the newer broker again" in read.stderr
    assert (schema_of(state), records(state)) == (schema_version() + 1, before)


def test_a_copy_from_before_the_upgrade_brings_the_old_broker_back(place: Sandbox, state: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(state, copy)
    with serving(next_release(tmp_path, COLUMN), place, state):
        pass
    shutil.rmtree(state)
    shutil.copytree(copy, state)
    with serving(NOW, place, state) as broker:
        assert broker.resolve("env:LOGFLUX_PAT").status == 200
    assert_verifies(NOW, state)


def assert_as_before(place: Sandbox, state: Path, before: tuple[int, set[str]]) -> None:
    """The failed upgrade left a database that the old broker runs with, and that verifies."""
    assert schema_of(state) == schema_version()
    assert (records(state), tables(state)) == before
    with serving(NOW, place, state) as broker:
        assert broker.resolve("env:LOGFLUX_PAT").status == 200
    assert_verifies(NOW, state)


def test_a_step_that_fails_halfway_leaves_the_old_database(place: Sandbox, state: Path, tmp_path: Path) -> None:
    before = records(state), tables(state)
    failed = start(next_release(tmp_path, COLUMN + "INSERT INTO nothing VALUES (1);"), place, state)
    assert failed.returncode == 4
    assert f"from schema {schema_version()} to {schema_version() + 1} failed (SQLITE_ERROR)" in failed.stderr
    assert "still runs with it" in failed.stderr
    assert_as_before(place, state, before)


def test_a_full_disk_leaves_the_old_database(place: Sandbox, state: Path, tmp_path: Path) -> None:
    before = records(state), tables(state)
    # No file may grow past 2 MiB: the kernel refuses the write, as it does on a disk without room.
    limit = "import os, resource, sys; n = 2 << 20; resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))"
    wrapper = (sys.executable, "-c", f"{limit}; os.execv(sys.argv[1], sys.argv[1:])")
    failed = start(next_release(tmp_path, COLUMN + ENDLESS), place, state, wrapper=wrapper)
    assert failed.returncode == 4
    assert f"from schema {schema_version()} to {schema_version() + 1} failed (SQLITE_" in failed.stderr
    assert_as_before(place, state, before)


def test_a_broker_killed_in_the_middle_of_a_step_leaves_the_old_database(
    place: Sandbox, state: Path, tmp_path: Path
) -> None:
    before = records(state), tables(state)
    release = next_release(tmp_path, COLUMN + ENDLESS)
    command = release.command("serve", "--config", str(place.settings_file))
    with process(command, log=tmp_path / "broker.log", environment=release.environment(state)) as child:
        _wait_for_size(state / "audit.db-wal", 16 << 20)
        child.kill()
    assert_as_before(place, state, before)


def _wait_for_size(file: Path, size: int) -> None:
    deadline = time.monotonic() + 30
    while not (file.exists() and file.stat().st_size > size):
        assert time.monotonic() < deadline, "the step writes nothing"
        time.sleep(0.01)
