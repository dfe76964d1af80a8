"""How `broker serve` begins: what it refuses by name, and what it forbids before it reads a secret."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.child import free_port, process
from tests.running import RunningBroker, running, serve_again
from tests.waiting import wait_until

# Root may look everywhere by its capabilities; both sides do without them, as a broker in service does.
UNPRIVILEGED = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"] if os.getuid() == 0 else []
_BAD_INPUT = 3


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running(wrapper=UNPRIVILEGED) as it:
        yield it


def test_no_core_is_left(broker: RunningBroker) -> None:
    limits = Path(f"/proc/{broker.child.handle.pid}/limits").read_text().splitlines()
    core = next(line for line in limits if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


def test_a_process_of_the_same_user_can_not_look_into_it(broker: RunningBroker) -> None:
    with process([*UNPRIVILEGED, "sleep", "60"], log=broker.place.directory / "sleep.log") as other:
        # Until it has let go of its capabilities it is closed too.
        wait_until(lambda: bool(look_into(other.handle.pid).stdout))
    seen = look_into(broker.child.handle.pid)
    assert seen.returncode != 0
    assert seen.stdout == b""


def look_into(pid: int) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([*UNPRIVILEGED, "cat", f"/proc/{pid}/environ"], capture_output=True, check=False)


def test_a_second_broker_on_the_same_state_is_refused_and_names_the_first(broker: RunningBroker) -> None:
    text = broker.place.settings_file.read_text()
    for port in (broker.place.agent_port, broker.place.operations_port):
        text = text.replace(str(port), str(free_port()))
    second = broker.place.directory / "second.yaml"
    second.write_text(text)
    done = serve_again(second)
    assert done.returncode == _BAD_INPUT
    assert done.stderr.startswith("broker: error[settings_invalid]: ")
    assert f"another broker writes this audit trail (process {broker.child.handle.pid} on " in done.stderr
    assert "Traceback" not in done.stderr
    assert broker.resolve("env:LOGFLUX_PAT").status == 200


def test_a_port_in_use_is_refused_by_its_number(broker: RunningBroker) -> None:
    text = broker.place.settings_file.read_text()
    other = broker.place.directory / "other.yaml"
    other.write_text(text.replace(f"{broker.place.directory}/state", f"{broker.place.directory}/other-state"))
    done = serve_again(other)
    assert done.returncode == _BAD_INPUT
    assert f"port {broker.place.agent_port} on 127.0.0.1: another process listens there" in done.stderr


def test_the_parser_in_python_is_refused(broker: RunningBroker) -> None:
    done = serve_again(broker.place.settings_file, AIOHTTP_NO_EXTENSIONS="1")
    assert done.returncode == _BAD_INPUT
    assert "AIOHTTP_NO_EXTENSIONS" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("log_level: debug", "log_levle: debug", "log_levle: no such setting"),
        ("/pki/broker.key", "/pki/open.key", "open.key: mode 0644"),
        ("/policy.yaml", "/no-policy.yaml", "no-policy.yaml: No such file or directory"),
        ("/policy.yaml", "/wrong-policy.yaml", "line 2, column "),
    ],
)
def test_a_wrong_setting_file_or_policy_is_named(broker: RunningBroker, old: str, new: str, said: str) -> None:
    place = broker.place.directory
    shutil.copyfile(place / "pki" / "broker.key", place / "pki" / "open.key")
    (place / "pki" / "open.key").chmod(0o644)
    (place / "wrong-policy.yaml").write_text("identities:\n  a: 7\nrules: []\n")
    wrong = place / "wrong.yaml"
    wrong.write_text(f"{place_settings(broker)}log_level: debug\n".replace(old, new))
    done = serve_again(wrong)
    assert done.returncode == _BAD_INPUT, done.stderr
    assert said in done.stderr
    assert done.stderr.startswith("broker: error[")
    assert done.stderr.count("\n") == 1


def place_settings(broker: RunningBroker) -> str:
    return broker.place.settings_file.read_text()
