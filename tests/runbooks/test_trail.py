"""Walks through the pages about the audit trail."""

import contextlib
import re
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.mounting import ext4, mounted, needs_loop, needs_mkfs
from tests.runbooks.walking import Walk
from tests.running import verb
from tests.waiting import wait_until

# Alerts take their time to come and to go, on a loaded machine more of it.
pytestmark = pytest.mark.timeout(300)

SEARCH, VERIFY = "broker audit search", "broker audit verify"


def test_audit_failing(walk: Walk) -> None:
    walk.start()
    assert walk.resolve().status == 200
    walk.is_quiet()

    with contextlib.closing(sqlite3.connect(walk.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refuses(walk)
        walk.raises()
        walk.run("curl").says("SQLITE_BUSY")
        walk.run("journalctl").says("SQLITE_BUSY")
        walk.run("df")
        walk.run("ls").has("audit.db\n")
    wait_until(lambda: walk.resolve().status == 200, "it goes on by itself")
    walk.run(SEARCH).says("reason=recovered", "failed_since", "refused_events")

    away = walk.database.with_suffix(".away")
    walk.database.rename(away)
    refuses(walk)
    wait_until(lambda: "removed or replaced" in walk.run("curl").output, "/readyz names it")
    walk.run("curl").says("removed or replaced")
    walk.run("journalctl").says("removed or replaced")
    assert "audit.db\n" not in walk.run("ls").output
    walk.run(SEARCH, status=3).says("no such file")
    away.rename(walk.database)
    walk.ends()
    assert walk.resolve().status == 200
    walk.run(VERIFY).has("good: ")


@needs_loop
@needs_mkfs
def test_audit_failing_on_a_disk_that_is_full_and_then_fails(walk: Walk, tmp_path: Path) -> None:
    image, state = ext4(tmp_path / "image"), walk.database.parent
    with mounted(image, state) as device:
        walk.start()
        assert walk.resolve().status == 200
        with (state / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"x" * 4096)
        # What lies in pages that the database has already may still be written.
        wait_until(lambda: walk.resolve().status == 503, "it refuses")
        wait_until(lambda: "SQLITE_FULL" in walk.run("curl").output, "/readyz names it")
        walk.run("journalctl").says("SQLITE_FULL")
        walk.run("df").says("100%")
        (state / "filler").unlink()
        wait_until(lambda: walk.resolve().status == 200, "it goes on by itself")

        # What the kernel does when the disk reports an error; nothing but a new mount takes it back.
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")
        refuses(walk)
        wait_until(lambda: "SQLITE_IOERR_WRITE" in walk.run("curl").output, "/readyz names it")
        walk.run("journalctl").says("SQLITE_IOERR_WRITE")
        walk.stop()
    subprocess.run(["e2fsck", "-p", "-f", image], check=False, capture_output=True)
    with mounted(image, state):
        walk.start()
        assert walk.resolve().status == 200
        walk.run(VERIFY).has("good: ")
        walk.stop()


def refuses(walk: Walk) -> None:
    answer = walk.resolve()
    assert (answer.status, answer.json["code"]) == (503, "audit_unavailable")
    assert walk.page.says(f"Every request is answered 503 `{answer.json['code']}`")


def nightly(walk: Walk, *, database: Path | None = None) -> int:
    """Do what the timer does every night."""
    file = walk.watcher.monitoring.collected / "broker_audit.prom"
    return verb("audit", "verify", "--database", str(database or walk.database), "--metrics", str(file)).returncode


def test_audit_tampered(walk: Walk) -> None:
    evidence = "/var/backups/audit-evidence/audit.db"
    walk.start()
    for _ in range(5):
        assert walk.resolve().status == 200
    assert nightly(walk) == 0
    wait_until(lambda: walk.watcher.find("broker_audit_verify_good == 1") != [], "Prometheus sees the verification")
    walk.is_quiet()
    notes = walk.database.with_name("checkpoints.log")
    shutil.copyfile(notes, walk.path("/mnt/worm/checkpoints.log"))

    with contextlib.closing(sqlite3.connect(walk.database)) as other, other:
        other.execute("UPDATE record SET body = CAST(replace(body, 'shipper', 'nobody') AS BLOB) WHERE seq = 4")
        other.execute("DELETE FROM record WHERE seq = 6")
    assert nightly(walk) == 1
    walk.raises()
    walk.run("mkdir")
    walk.run("cp")
    shown = walk.run(f"{VERIFY} --database {evidence}\n", status=1)
    shown.says("edited", "removed", "TAMPERED WITH").has("edited: record 4: ", "removed: record 6: ")
    walk.run(f"{VERIFY} --database {evidence} --checkpoints", status=1).has('"what": "edited"', '"seq": 4')
    # What was revealed up to the last good record.
    revealed = [int(seq) for seq in re.findall(r'"seq":(\d+)', walk.run(SEARCH).output)]
    assert 3 in revealed

    walk.stop()
    old = walk.path("/var/backups/old")
    old.mkdir()
    for file in [*walk.database.parent.glob("audit.db*"), notes]:
        file.rename(old / file.name)
    walk.start()
    assert walk.resolve().status == 200
    assert nightly(walk) == 0
    walk.ends()


def test_audit_tampered_by_a_backup_that_was_restored(walk: Walk) -> None:
    walk.start()
    backup = walk.path("/var/backups/audit.db")
    with contextlib.closing(sqlite3.connect(walk.database)) as source:
        source.execute("VACUUM INTO ?", (str(backup),))
    for _ in range(3):
        assert walk.resolve().status == 200
    walk.stop()
    newest = walk.path("/var/backups/newest")
    newest.mkdir()
    for file in walk.database.parent.glob("audit.db*"):
        file.rename(newest / file.name)
    shutil.copyfile(backup, walk.database)
    walk.database.chmod(0o600)
    walk.run("mkdir")
    walk.run("cp")
    walk.run(f"{VERIFY} --database /var/backups/audit-evidence/audit.db\n", status=1).says("cut")

    for file in newest.iterdir():
        file.replace(walk.database.with_name(file.name))
    assert nightly(walk) == 0
    walk.start()
    assert walk.resolve().status == 200
    assert nightly(walk) == 0


def test_audit_unverified(walk: Walk) -> None:
    walk.start()
    walk.raises()
    assert walk.page.says("or Prometheus never saw one")
    walk.run(VERIFY)
    collected = walk.watcher.monitoring.collected / "broker_audit.prom"
    assert nightly(walk) == 0
    walk.ends()

    # The timer did not run for a day and three hours.
    past = rf"\1 {time.time() - 27 * 3600}"
    collected.write_text(re.sub(r"(?m)^(broker_audit_verify_timestamp_seconds) .*$", past, collected.read_text()))
    walk.raises()
    # And the next one could not read the trail: its exit status is 3, it names the file, and the result grows old.
    away = walk.database.with_suffix(".away")
    walk.database.rename(away)
    file = str(walk.database)
    walk.journal["logflux-broker-verify"] = walk.run(VERIFY, status=3).has(file).output
    walk.run("journalctl").has(file)
    walk.raises()
    away.rename(walk.database)
    assert nightly(walk) == 0
    walk.ends()
