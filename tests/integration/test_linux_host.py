"""A broker under a service manager: what it says, what it takes over, and what it survives."""

import http.client
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from broker.cli.sandbox import Process, Sandbox, process, sandbox
from tests.running import RunningBroker
from tests.service_manager import NotifySocket, Supervisor, supervisor

API_KEY = "vault:secret/logflux#api_key"
PAT = "env:LOGFLUX_PAT"


@pytest.fixture(scope="module")
def place() -> Iterator[Sandbox]:
    with sandbox(fresh_for="5m") as it:
        yield it


@pytest.fixture
def manager(place: Sandbox) -> Iterator[Supervisor]:
    with supervisor(place) as it:
        yield it


def events(place: Sandbox, kind: str) -> int:
    with closing(sqlite3.connect(f"file:{place.database}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM record WHERE kind = ?", (kind,)).fetchone()[0])


def assert_trail_is_whole(place: Sandbox) -> None:
    command = [sys.executable, "-m", "broker", "audit", "verify", "--database", str(place.database)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def ended(child: Process) -> tuple[int, str]:
    status = child.handle.wait(timeout=30)
    return status, child.log.read_text(errors="replace")


@pytest.mark.parametrize("options", [(), ("--uvloop",)], ids=["asyncio", "uvloop"])
def test_start_reload_and_stop_are_told_in_order(manager: Supervisor, place: Sandbox, options: tuple[str, ...]) -> None:
    with manager.broker(options=options) as child:
        manager.notify.wait_for("READY=1")
        assert RunningBroker(place, child).resolve(API_KEY, PAT).status == 200
        before = time.monotonic_ns() // 1000
        child.handle.send_signal(signal.SIGHUP)
        reloading = manager.notify.wait_for("RELOADING=1").splitlines()
        key, _, microseconds = reloading[1].partition("=")
        assert key == "MONOTONIC_USEC"
        assert before <= int(microseconds) <= time.monotonic_ns() // 1000
        manager.notify.wait_for("READY=1")
        manager.notify.wait_for("WATCHDOG=1")
        assert manager.stop(child) == 0
    said = [message for message in manager.notify.told if message != "WATCHDOG=1"]
    assert "STATUS=ready" in said
    # What is said before it is ready says what is missing; nothing is claimed too early.
    assert said[0].startswith("STATUS=not ready: ")


def test_ready_is_said_when_every_dependency_has_been_looked_at(manager: Supervisor) -> None:
    with manager.broker() as child:
        manager.notify.wait_for("READY=1")
        last = [message for message in manager.notify.told if message.startswith("STATUS=")][-1]
        assert last == "STATUS=ready"
        manager.stop(child)


def test_a_store_that_is_away_is_named_in_the_status_and_keeps_nothing_from_starting() -> None:
    with sandbox(fresh_for="5m") as place, supervisor(place) as manager:
        place.store.kill()
        with manager.broker() as child:
            manager.notify.wait_for("READY=1")
            last = [message for message in manager.notify.told if message.startswith("STATUS=")][-1]
            assert last.startswith("STATUS=not ready: vault: ")
            assert RunningBroker(place, child).resolve(PAT).status == 200
            assert manager.stop(child) == 0


def until(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def silent(notify: NotifySocket, *, seconds: float, within: float = 30.0) -> bool:
    """Tell whether nothing was said for `seconds` in a row."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if notify.next(seconds=seconds) is None:
            return True
    return False


def test_a_stopped_process_feeds_no_watchdog_and_a_continued_one_does(manager: Supervisor) -> None:
    with manager.broker() as child:
        manager.notify.wait_for("WATCHDOG=1")
        child.handle.send_signal(signal.SIGSTOP)
        assert silent(manager.notify, seconds=1.0)
        child.handle.send_signal(signal.SIGCONT)
        manager.notify.wait_for("WATCHDOG=1")
        manager.stop(child)


HANGING = """
import sys, time
from broker.__main__ import main
from broker.app import Service
async def hang(self):
    time.sleep(600)
Service.reload = hang
sys.exit(main(sys.argv[1:]))
"""


def test_a_hung_loop_feeds_no_watchdog_is_ended_by_it_and_starts_again(manager: Supervisor, place: Sandbox) -> None:
    environment = {
        **os.environ,
        "NOTIFY_SOCKET": manager.notify.address,
        "WATCHDOG_USEC": "1000000",
        "PYTHONFAULTHANDLER": "1",
    }
    for sock in manager.sockets.values():
        sock.close()
    command = [sys.executable, "-c", HANGING, "serve", "--config", str(place.settings_file)]
    with process(command, log=place.directory / "hanging.log", environment=environment) as child:
        manager.notify.wait_for("READY=1")
        manager.notify.wait_for("WATCHDOG=1")
        child.handle.send_signal(signal.SIGHUP)
        assert silent(manager.notify, seconds=1.0)
        assert child.handle.poll() is None
        # What systemd does then. The unit lets the interpreter say where the loop hangs.
        child.handle.send_signal(signal.SIGABRT)
        status, log = ended(child)
    assert status == -signal.SIGABRT
    assert "in hang" in log
    with process(
        [*command[:1], "-m", "broker", *command[3:]], log=place.directory / "again.log", environment=environment
    ):
        manager.notify.wait_for("READY=1")
    assert_trail_is_whole(place)


class Agent(threading.Thread):
    """Connects anew for each request, one after the other, and keeps what went wrong."""

    def __init__(self, broker: RunningBroker) -> None:
        super().__init__(daemon=True)
        self.broker = broker
        self.answered = 0
        self.failures: list[str] = []
        self.enough = threading.Event()

    def answer_some_more(self) -> None:
        before = self.answered
        until(lambda: self.answered > before + 5)

    def run(self) -> None:
        while not self.enough.is_set():
            try:
                answer = self.broker.resolve(PAT)
            except Exception as error:  # noqa: BLE001  Whatever it is, the agent has failed.
                self.failures.append(repr(error))
            else:
                self.answered += 1
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {answer.body!r}")


@pytest.mark.parametrize("options", [(), ("--uvloop",)], ids=["asyncio", "uvloop"])
def test_an_agent_that_connects_in_a_loop_never_fails_through_restarts(
    manager: Supervisor, place: Sandbox, options: tuple[str, ...]
) -> None:
    agents: list[Agent] = []
    for start in range(3):
        with manager.broker(options=options) as child:
            manager.notify.wait_for("READY=1")
            if not start:
                agents = [Agent(RunningBroker(place, child)) for _ in range(3)]
                for agent in agents:
                    agent.start()
            for agent in agents:
                agent.answer_some_more()
            if start == 2:
                for agent in agents:
                    agent.enough.set()
                    agent.join(30)
            # In all the other rounds, the agents go on while the broker stops and starts.
            assert manager.stop(child) == 0
    assert [agent.failures for agent in agents] == [[], [], []]
    assert_trail_is_whole(place)


def test_a_thousand_sighups_are_a_few_reloads_and_the_last_one_counts(manager: Supervisor, place: Sandbox) -> None:
    policy = place.directory / "policy.yaml"
    good = policy.read_text()
    try:
        with manager.broker() as child:
            manager.notify.wait_for("READY=1")
            broker = RunningBroker(place, child)
            before = events(place, "policy")
            for number in range(1000):
                if number == 998:
                    policy.write_text(good.replace(f'"{PAT}", ', ""))
                child.handle.send_signal(signal.SIGHUP)
            until(lambda: broker.resolve(PAT).status == 403)
            assert RunningBroker(place, child).resolve(API_KEY).status == 200
            assert manager.stop(child) == 0
        # Each reload is an event of the trail, and the trail is no place for a thousand of them.
        assert 0 < events(place, "policy") - before < 500
    finally:
        policy.write_text(good)
    assert_trail_is_whole(place)


def test_sighup_during_the_start_does_not_end_it(manager: Supervisor) -> None:
    with manager.broker() as child:
        finished = threading.Event()

        def hurry() -> None:
            while not finished.wait(0.005):
                # The interpreter's own start is not ours: before `serve` runs, the signal has its default effect.
                if blocks_sighup(child.handle.pid):
                    child.handle.send_signal(signal.SIGHUP)

        thread = threading.Thread(target=hurry)
        thread.start()
        try:
            manager.notify.wait_for("READY=1")
        finally:
            finished.set()
            thread.join()
        assert manager.stop(child) == 0


def blocks_sighup(pid: int) -> bool:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    bit = 1 << (signal.SIGHUP - 1)
    return bool((int(status["SigBlk"], 16) | int(status["SigCgt"], 16)) & bit)


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


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may mount a file system")
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
        kept = stack.enter_context(closing(connection_to(place)))
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


def connection_to(place: Sandbox) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(place.authority))
    context.load_cert_chain(*place.certificate("shipper"))
    return http.client.HTTPSConnection("127.0.0.1", place.agent_port, context=context, timeout=20)


def statuses(connection: http.client.HTTPSConnection, *references: str) -> list[str]:
    body = json.dumps({"references": references, "require": "any"})
    connection.request("POST", "/v1/resolve", body, {"Content-Type": "application/json"})
    return [result["status"] for result in json.loads(connection.getresponse().read())["results"]]
