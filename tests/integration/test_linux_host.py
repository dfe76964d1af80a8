"""A broker under a service manager: what it says, what it takes over, and what it survives."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from broker.cli.child import process
from broker.cli.sandbox import Sandbox, sandbox
from tests.running import API_KEY, PAT, RunningBroker
from tests.service_manager import (
    Agent,
    NotifySocket,
    Supervisor,
    assert_trail_is_whole,
    ended,
    supervisor,
)
from tests.waiting import wait_until


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
            for number in range(1000):
                if number == 998:
                    policy.write_text(good.replace(f'"{PAT}", ', ""))
                child.handle.send_signal(signal.SIGHUP)
                # Signals that wait are one; this way the broker takes each of them.
                while has_sighup(child.handle.pid, "ShdPnd"):
                    time.sleep(0)
                if number % 20 == 0:
                    manager.notify.take_all()
            wait_until(lambda: broker.resolve(PAT).status == 403)
            assert broker.resolve(API_KEY).status == 200
            # Whatever comes during a reload is answered by one more, and no queue of them is left.
            wait_until(lambda: has_settled(broker, manager))
            assert 0 < reloads(broker) < 500
            assert manager.stop(child) == 0
    finally:
        policy.write_text(good)
    assert_trail_is_whole(place)


def reloads(broker: RunningBroker) -> float:
    wanted = 'broker_policy_reloads_total{outcome="accepted"} '
    lines = broker.operations("/metrics").body.decode().splitlines()
    return float(next(line.removeprefix(wanted) for line in lines if line.startswith(wanted)))


def has_settled(broker: RunningBroker, manager: Supervisor) -> bool:
    before = reloads(broker)
    # In this time one more would have begun, and what the broker still has to say is taken.
    while manager.notify.next(seconds=0.6) not in {None, "WATCHDOG=1"}:
        pass
    return reloads(broker) == before


def test_sighup_during_the_start_does_not_end_it(manager: Supervisor) -> None:
    with manager.broker() as child:
        finished = threading.Event()

        def hurry() -> None:
            while not finished.wait(0.005):
                # The interpreter's own start is not ours: before `serve` runs, the signal has its default effect.
                if has_sighup(child.handle.pid, "SigBlk", "SigCgt"):
                    child.handle.send_signal(signal.SIGHUP)

        thread = threading.Thread(target=hurry)
        thread.start()
        try:
            manager.notify.wait_for("READY=1")
        finally:
            finished.set()
            thread.join()
        assert manager.stop(child) == 0


def has_sighup(pid: int, *sets: str) -> bool:
    """Tell whether SIGHUP is in one of these sets of signals of a process (proc(5))."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    bit = 1 << (signal.SIGHUP - 1)
    return any(int(status[name], 16) & bit for name in sets)
