"""The words to the service manager, taken by a real datagram socket."""

import logging
import os
import socket
from pathlib import Path

import pytest

from broker.systemd.notify import ServiceManager
from tests.service_manager import notify_socket


@pytest.mark.parametrize("abstract", [False, True])
def test_a_path_and_an_abstract_name_are_both_spoken_to(tmp_path: Path, abstract: bool) -> None:
    with notify_socket(None if abstract else tmp_path / "notify") as told:
        manager = ServiceManager(address=told.address)
        manager.ready()
        assert told.next(seconds=5) == "READY=1"
        manager.close()


def test_a_reload_carries_the_monotonic_time_in_microseconds() -> None:
    with notify_socket() as told:
        manager = ServiceManager(address=told.address, monotonic=lambda: 12_345_678_999)
        manager.reloading()
        assert told.next(seconds=5) == "RELOADING=1\nMONOTONIC_USEC=12345678"
        manager.close()


def test_a_status_is_one_line_and_is_not_said_twice_in_a_row() -> None:
    with notify_socket() as told:
        manager = ServiceManager(address=told.address)
        for words in ("not ready: a\nREADY=1", "not ready: a READY=1", "ready", "x" * 600):
            manager.status(words)
        said = [told.next(seconds=5), told.next(seconds=5), told.next(seconds=5)]
        assert said == ["STATUS=not ready: a READY=1", "STATUS=ready", "STATUS=" + "x" * 500]
        manager.close()


def test_the_variables_are_taken_away_so_that_no_child_speaks_for_the_broker() -> None:
    environment = {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7", "HOME": "/"}
    manager = ServiceManager.from_environment(environment, pid=7)
    assert environment == {"HOME": "/"}
    assert manager.watchdog_seconds == 3.0
    manager.close()


@pytest.mark.parametrize(
    ("variables", "warns"),
    [
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, False),
        ({"WATCHDOG_USEC": "0"}, True),
        ({"WATCHDOG_USEC": "3 s"}, True),
        ({"WATCHDOG_USEC": "٣"}, True),
        ({}, False),
    ],
)
def test_a_watchdog_of_another_process_or_of_no_time_is_not_fed(
    variables: dict[str, str], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with notify_socket() as told:
        manager = ServiceManager.from_environment({"NOTIFY_SOCKET": told.address, **variables}, pid=7)
        manager.alive()
        manager.ready()
        assert told.next(seconds=5) == "READY=1"
        assert ("WATCHDOG_USEC" in caplog.text) == warns
        manager.close()


def test_without_a_service_manager_nothing_is_said_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    manager = ServiceManager.from_environment({"WATCHDOG_USEC": "1000000"}, pid=os.getpid())
    manager.ready()
    manager.alive()
    manager.close()
    assert manager.watchdog_seconds is None
    assert caplog.records == []


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("/nowhere/notify", "No such file or directory"),
        ("notify", "neither an absolute path nor an abstract name"),
        ("vsock:2:1234", "neither an absolute path nor an abstract name"),
        ("/" + "x" * 107, "neither an absolute path nor an abstract name"),
        ("@" + "x" * 107, "neither an absolute path nor an abstract name"),
        ("@logflux-broker-nobody-listens-here", "Connection refused"),
    ],
)
def test_a_manager_that_can_not_be_told_is_named_once_and_stops_nothing(
    address: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ServiceManager(address=address, watchdog_seconds=1.0)
    manager.status("ready")
    manager.ready()
    manager.alive()
    manager.close()
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    assert "NOTIFY_SOCKET" in caplog.text
    assert why in caplog.text


def test_the_longest_abstract_name_is_spoken_to() -> None:
    name = "logflux-broker-".ljust(106, "x")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        manager = ServiceManager(address="@" + name)
        manager.ready()
        sock.settimeout(5)
        assert sock.recv(100) == b"READY=1"
        manager.close()


def test_what_a_slow_manager_does_not_take_is_said_later_and_in_order() -> None:
    with notify_socket() as told:
        manager = ServiceManager(address=told.address, watchdog_seconds=1.0)
        # Its queue is full after a few words, and the broker is not held up by that.
        words = [f"word {number}" for number in range(1000)]
        for word in words:
            manager.status(word)
        manager.ready()
        said: list[str] = []
        while not said or said[-1] != "READY=1":
            message = told.next(seconds=0.1)
            if message is None:
                manager.alive()
            else:
                said.append(message)
        last = [f"STATUS={word}" for word in words[-63:]]
        assert said[-64:] == [*last, "READY=1"]
        assert "WATCHDOG=1" not in said
        manager.alive()
        assert told.next(seconds=5) == "WATCHDOG=1"
        manager.close()
