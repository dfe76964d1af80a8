"""`broker exec --watch` with a real broker and a real store: the child gets the new value, or a signal."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.running import RunningBroker, running
from tests.waiting import wait_until

SECRET = "NEW=vault:secret/logflux#api_key"


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running(environment={"LOGFLUX_WATCH__INTERVAL_SECONDS": "0.2"}) as it:
        yield it


@contextmanager
def child(broker: RunningBroker, script: str, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    certificate, key = broker.place.certificate("shipper")
    ways = ["--url", broker.place.url, "--ca", str(broker.place.authority), "--cert", str(certificate)]
    command = [sys.executable, "-m", "broker", "exec", *ways, "--key", str(key), "--env", SECRET]
    # A session of its own: the command outlives a supervisor that is killed, and has to go too.
    process = subprocess.Popen(
        [*command, "--watch", "--splay", "0.1", *options, "--", "sh", "-c", script], start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_a_changed_secret_restarts_the_command_with_the_new_value(broker: RunningBroker, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    broker.write_api_key("before")
    with child(broker, f'echo "$NEW" >> {seen}; exec sleep 60') as process:
        # What the broker remembers from another test comes first, and is told to be old.
        wait_until(lambda: lines(seen)[-1:] == ["before"])
        broker.write_api_key("after")
        wait_until(lambda: lines(seen)[-1:] == ["after"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


def test_a_command_that_does_not_go_is_killed_after_its_grace(broker: RunningBroker, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f"trap '' TERM; echo \"$NEW\" >> {seen}; while :; do sleep 0.1; done"
    with child(broker, script, "--grace", "0.3"):
        wait_until(lambda: len(lines(seen)) == 1)
        broker.write_api_key("another one")
        wait_until(lambda: lines(seen)[-1:] == ["another one"])


def test_a_changed_secret_signals_the_command_and_its_exit_status_is_this_ones(
    broker: RunningBroker, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    script = f"trap 'exit 7' USR1; echo up >> {seen}; while :; do sleep 0.1; done"
    broker.write_api_key("before the signal")
    with child(broker, script, "--on-change", "USR1") as process:
        wait_until(lambda: len(lines(seen)) == 1)
        # No value of another test: what is remembered of that and comes back is no change.
        broker.write_api_key("after the signal")
        assert process.wait(60) == 7
    assert lines(seen) == ["up"]


def test_what_has_not_changed_restarts_nothing_and_a_command_that_ends_ends_it(
    broker: RunningBroker, tmp_path: Path
) -> None:
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    os.mkfifo(gate)
    with child(broker, f"echo up >> {seen}; read line < {gate}; exit 3") as process:
        wait_until(lambda: len(lines(seen)) == 1)
        gate.write_text("go\n")
        assert process.wait(20) == 3
    assert lines(seen) == ["up"]
