"""The disk of the state directory, while the broker serves: full, limited, read-only, and good again.

A small tmpfs is a real full disk that needs nothing but the right to mount, which root has on a machine and not
in every container. A limit of the kernel on the size of the broker's files needs no right at all, so one of the
two is seen everywhere.
"""

import json
import resource
import subprocess
from pathlib import Path

from broker.cli.sandbox import sandbox
from tests.mounting import ext4, mounted, needs_loop, needs_mkfs, needs_mount, small_disk
from tests.running import RunningBroker, audit, serve_again, serving
from tests.waiting import wait_until

API_KEY = "vault:secret/logflux#api_key"
_BAD_INPUT = 3
_UNAVAILABLE = 4


def fill(disk: Path) -> Path:
    """Write until nothing fits any more; return what to remove."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


def reveals_nothing(broker: RunningBroker) -> bool:
    """Tell whether a value that is cached, and allowed, is refused for want of its audit record."""
    answer = broker.resolve(API_KEY)
    if answer.status == 200:
        return False
    assert answer.status == 503, answer.body
    assert answer.json["code"] == "audit_unavailable"
    assert b'"value"' not in answer.body
    return True


def audit_state(broker: RunningBroker) -> dict[str, object]:
    return dict(broker.operations("/readyz").json["dependencies"]["audit"])


def until_it_refuses(broker: RunningBroker, *, full: bool = False) -> None:
    # What lies in pages that the database already has may still be written, and rightly answered.
    wait_until(lambda: reveals_nothing(broker))
    wait_until(lambda: not audit_state(broker)["ready"])
    assert broker.operations("/readyz").status == 503
    assert broker.operations("/livez").status == 200
    # A full disk may take a record in pages that a checkpoint has freed meanwhile; any other fault takes none.
    assert full or all(reveals_nothing(broker) for _ in range(5))
    assert b"broker_audit_failures_total 0.0" not in broker.operations("/metrics").body


def until_it_is_good_again(broker: RunningBroker) -> None:
    wait_until(lambda: broker.operations("/readyz").status == 200)
    assert broker.resolve(API_KEY).status == 200
    assert broker.terminate() == 0
    verified = audit(broker, "verify")
    assert verified.returncode == 0, verified.stdout
    about_itself = [
        json.loads(line) for line in audit(broker, "search", "--type", "checkpoint", "--json").stdout.splitlines()
    ]
    assert about_itself[-1]["reason"] == "recovered"
    assert about_itself[-1]["details"]["refused_events"] >= 1


@needs_mount
def test_a_full_disk_refuses_everything_and_heals_by_itself() -> None:
    with sandbox(fresh_for="5m") as place, small_disk(place.directory / "state") as disk, serving(place) as broker:
        assert broker.resolve(API_KEY).status == 200
        filler = fill(disk)
        until_it_refuses(broker, full=True)
        filler.unlink()
        until_it_is_good_again(broker)


def test_files_that_may_not_grow_refuse_everything_and_heal_by_themselves() -> None:
    with sandbox(fresh_for="5m") as place, serving(place) as broker:
        assert broker.resolve(API_KEY).status == 200
        _, hard = resource.prlimit(broker.child.handle.pid, resource.RLIMIT_FSIZE)
        # Not even the log can be written now, and that must not matter.
        resource.prlimit(broker.child.handle.pid, resource.RLIMIT_FSIZE, (1, hard))
        until_it_refuses(broker)
        resource.prlimit(broker.child.handle.pid, resource.RLIMIT_FSIZE, (hard, hard))
        until_it_is_good_again(broker)


@needs_mount
def test_a_full_disk_at_the_stop_ends_the_broker_all_the_same() -> None:
    with sandbox(fresh_for="5m") as place, small_disk(place.directory / "state") as disk, serving(place) as broker:
        assert broker.resolve(API_KEY).status == 200
        filler = fill(disk)
        until_it_refuses(broker, full=True)
        assert broker.terminate() == 0
        assert "stop_not_recorded" in broker.log
        filler.unlink()
        assert audit(broker, "verify").returncode == 0


@needs_loop
@needs_mkfs
def test_a_disk_that_the_kernel_makes_read_only_refuses_everything_until_it_is_mounted_anew(tmp_path: Path) -> None:
    image = ext4(tmp_path / "image")
    with sandbox(fresh_for="5m") as place:
        state = place.directory / "state"
        with mounted(image, state) as device, serving(place) as broker:
            assert broker.resolve(API_KEY).status == 200
            # What the kernel does by itself when the disk reports an error; nothing but a new mount takes it back.
            Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")
            until_it_refuses(broker)
            assert broker.terminate() == 0
            assert "stop_not_recorded" in broker.log
        subprocess.run(["e2fsck", "-p", "-f", image], check=False, capture_output=True)
        with mounted(image, state), serving(place) as broker:
            assert broker.resolve(API_KEY).status == 200
            verified = audit(broker, "verify")
            assert verified.returncode == 0, verified.stdout


@needs_mount
def test_a_full_disk_at_the_start_is_named() -> None:
    with sandbox(fresh_for="5m") as place, small_disk(place.directory / "state") as disk:
        fill(disk)
        done = serve_again(place.settings_file)
    assert done.returncode in {_BAD_INPUT, _UNAVAILABLE}
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@needs_mount
def test_a_read_only_disk_at_the_start_is_named() -> None:
    with sandbox(fresh_for="5m") as place, small_disk(place.directory / "state", "ro"):
        done = serve_again(place.settings_file)
    assert done.returncode == _BAD_INPUT
    assert "read-only file system" in done.stderr.lower()
    assert str(place.directory / "state") in done.stderr
    assert "Traceback" not in done.stderr
