"""What a host does to a broker: signals at a wrong moment; sockets, ports, disks and descriptors that are not there."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from broker.cli.sandbox import Sandbox
from tests.mounting import needs_mount
from tests.running import API_KEY, PAT, RunningBroker
from tests.service_manager import (
    Agent,
    Supervisor,
    assert_trail_is_whole,
    ended,
    events,
    supervisor,
)


def test_sigterm_during_the_start_ends_it_in_order(manager: Supervisor, place: Sandbox) -> None:
    with manager.broker() as child:
        manager.notify.wait_for("READY=1")
        assert manager.stop(child) == 0
    for words in (1, 2, 4):
        before = events(place, "start"), events(place, "stop")
        with manager.broker() as child:
            # The start says how far it is.
            for _ in range(words):
                manager.notify.wait_for("STATUS=not ready")
            child.handle.send_signal(signal.SIGTERM)
            status, log = ended(child)
        assert status == 0, log
        assert "Traceback" not in log
        assert (events(place, "start"), events(place, "stop")) == (before[0] + 1, before[1] + 1)
    assert_trail_is_whole(place)


def test_an_end_at_any_moment_of_the_first_start_leaves_a_state_that_starts(
    manager: Supervisor, tmp_path: Path
) -> None:
    environment = {"LOGFLUX_STATE_DIRECTORY": str(tmp_path / "state")}
    for tenths in range(3, 9):
        with manager.broker(environment=environment) as child:
            # Wherever it is by then: the moment differs from run to run, and each one must do.
            time.sleep(tenths / 10)
            child.handle.send_signal(signal.SIGTERM)
            status, log = ended(child)
            assert status in {0, -signal.SIGTERM}, log
    with manager.broker(environment=environment) as child:
        manager.notify.wait_for("READY=1")
        assert manager.stop(child) == 0


def test_a_notify_socket_that_is_missing_is_named_and_the_broker_runs(manager: Supervisor, place: Sandbox) -> None:
    with manager.broker(environment={"NOTIFY_SOCKET": "/nowhere/notify"}) as child:
        assert RunningBroker(place, child).resolve(PAT).status == 200
        child.handle.send_signal(signal.SIGTERM)
        status, log = ended(child)
    assert status == 0
    assert log.count("NOTIFY_SOCKET can't be told: No such file or directory") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can start the broker as a user who may not write the socket")
def test_a_notify_socket_that_may_not_be_written_is_named(place: Sandbox, manager: Supervisor) -> None:
    Path(manager.notify.address).chmod(0o600)
    code = (
        "import os; from broker.systemd.notify import ServiceManager; os.setuid(65534);"
        f"m = ServiceManager(address={manager.notify.address!r}); m.ready()"
    )
    place.directory.chmod(0o711)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert "NOTIFY_SOCKET can't be told: Permission denied" in said.stderr


def test_a_taken_port_is_named_in_the_log_and_in_the_status(place: Sandbox) -> None:
    with (
        supervisor(place, hand_over=False) as manager,
        socket.create_server(("127.0.0.1", place.agent_port)),
        manager.broker() as child,
    ):
        said = manager.notify.wait_for("STATUS=can't run: ")
        status, log = ended(child)
    assert status == 3
    assert f"port {place.agent_port} on 127.0.0.1: another process listens there" in said
    assert "broker: error[settings_invalid]: port" in log
    assert "Traceback" not in log


def test_sockets_that_do_not_fit_are_refused(manager: Supervisor) -> None:
    with manager.broker(environment={"LISTEN_FDNAMES": "agents:metrics"}) as child:
        status, log = ended(child)
    assert status == 3
    assert "error[settings_invalid]: LISTEN_FDNAMES: 'metrics' is none of ours" in log


@needs_mount
@pytest.mark.parametrize("started_before", [False, True])
def test_a_read_only_state_volume_is_named(
    manager: Supervisor, tmp_path: Path, place: Sandbox, started_before: bool
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    environment = {"LOGFLUX_STATE_DIRECTORY": str(state)}
    if started_before:
        with manager.broker(environment=environment) as child:
            manager.notify.wait_for("READY=1")
            assert manager.stop(child) == 0
    subprocess.run(["mount", "--bind", state, state], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", state], check=True)
        with manager.broker(environment=environment) as child:
            said = manager.notify.wait_for("STATUS=can't run: ")
            status, log = ended(child)
    finally:
        subprocess.run(["umount", state], check=True)
    assert status == 3
    assert f"{state}: is on a read-only file system; state_directory must be writable for the broker" in said
    assert "Traceback" not in log
    with manager.broker(environment=environment) as child:
        manager.notify.wait_for("READY=1")
        assert manager.stop(child) == 0


def test_used_up_descriptors_let_new_connections_wait_and_fail_none_in_progress(
    place: Sandbox, manager: Supervisor
) -> None:
    with manager.broker(before=("prlimit", "--nofile=224:224")) as child, ExitStack() as stack:
        manager.notify.wait_for("READY=1")
        broker = RunningBroker(place, child)
        assert '"allowed":32,"reason":"the limit of 224 open files' in broker.log
        kept = stack.enter_context(closing(broker.connection()))
        assert statuses(kept, PAT) == ["ok"]
        # More than there are descriptors. Those that get in keep their places; the rest waits in the kernel.
        flood = stack.enter_context(ExitStack())
        for _ in range(300):
            flood.enter_context(socket.create_connection(("127.0.0.1", place.agent_port)))
        late = Agent(broker)
        late.start()
        for number in range(50):
            # A file that is not there has to be looked for, which takes a descriptor.
            assert statuses(kept, f"file:{place.files}/none-{number}", API_KEY) == ["missing", "ok"]
        assert broker.operations("/readyz").status == 200
        flood.close()
        late.answer_some_more()
        late.enough.set()
        late.join(30)
        assert late.failures == []
        assert "accept_failed" not in broker.log
        assert manager.stop(child) == 0


def test_a_flood_of_the_operations_listener_takes_nothing_that_requests_need(
    place: Sandbox, manager: Supervisor
) -> None:
    with manager.broker(before=("prlimit", "--nofile=224:224")) as child, ExitStack() as stack:
        manager.notify.wait_for("READY=1")
        broker = RunningBroker(place, child)
        kept = stack.enter_context(closing(broker.connection()))
        flood = stack.enter_context(ExitStack())
        for _ in range(300):
            flood.enter_context(socket.create_connection(("127.0.0.1", place.operations_port)))
        for number in range(50):
            assert statuses(kept, f"file:{place.files}/nothing-{number}", API_KEY) == ["missing", "ok"]
        assert broker.resolve(PAT).status == 200
        flood.close()
        assert broker.operations("/readyz").status == 200
        assert "accept_failed" not in broker.log
        assert manager.stop(child) == 0


def statuses(connection: http.client.HTTPSConnection, *references: str) -> list[str]:
    body = json.dumps({"references": references, "require": "any"})
    connection.request("POST", "/v1/resolve", body, {"Content-Type": "application/json"})
    return [result["status"] for result in json.loads(connection.getresponse().read())["results"]]
