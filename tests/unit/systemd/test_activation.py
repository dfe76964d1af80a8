"""Listening sockets that were handed over: taken by name, or refused with what is wrong."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.errors import SettingsInvalidError
from broker.systemd.activation import inherited_sockets
from broker.web.listening.binding import bind

PID = 4711
# Far above what the test runner has open.
FIRST = 700


@pytest.fixture
def hand_over() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def put(stack: ExitStack, *sources: socket.socket | int) -> None:
    """Put the sources where the service manager puts them."""
    for place, source in enumerate(sources, FIRST):
        number = source if isinstance(source, int) else source.fileno()
        os.dup2(number, place)
        stack.callback(os.close, place)
        if isinstance(source, socket.socket):
            source.close()


def variables(count: int | str, names: str | None, pid: int = PID) -> dict[str, str]:
    said = {"LISTEN_PID": str(pid), "LISTEN_FDS": str(count), "HOME": "/"}
    return said if names is None else {**said, "LISTEN_FDNAMES": names}


def refused(environment: dict[str, str]) -> str:
    with pytest.raises(SettingsInvalidError) as caught:
        inherited_sockets(environment, pid=PID, first=FIRST)
    return caught.value.detail


def test_sockets_are_taken_by_name_and_the_variables_taken_away(hand_over: ExitStack) -> None:
    put(hand_over, bind("127.0.0.1", 0), bind("::1", 0))
    environment = variables(2, "operations:agents")
    taken = inherited_sockets(environment, pid=PID, first=FIRST)
    assert environment == {"HOME": "/"}
    assert {name: sock.family for name, sock in taken.items()} == {
        "operations": socket.AF_INET,
        "agents": socket.AF_INET6,
    }
    for sock in taken.values():
        assert not sock.get_inheritable()
        assert sock.getblocking() is False
        sock.detach()


def test_nothing_handed_over_is_nothing_taken() -> None:
    assert inherited_sockets({}, pid=PID) == {}
    assert inherited_sockets(variables(0, None), pid=PID) == {}


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    assert inherited_sockets(variables(2, "agents:operations", pid=PID + 1), pid=PID, first=FIRST) == {}


@pytest.mark.parametrize("count", ["two", "-1", "", "٢"])
def test_a_number_that_is_none_is_refused(count: str) -> None:
    assert "LISTEN_FDS: is no number of sockets" in refused(variables(count, "agents"))


@pytest.mark.parametrize(
    ("count", "names", "why"),
    [
        (2, "agents", "1 names for 2 sockets"),
        (1, None, "0 names for 1 sockets"),
        (1, "agent", "'agent' is none of ours"),
        (2, "agents:agents", "two sockets are named agents"),
    ],
)
def test_names_that_do_not_fit_are_refused(count: int, names: str | None, why: str) -> None:
    assert why in refused(variables(count, names))


def test_a_descriptor_that_is_not_open_is_refused() -> None:
    assert "(descriptor 700): Bad file descriptor" in refused(variables(1, "agents"))


def test_a_file_is_no_socket(hand_over: ExitStack, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        put(hand_over, file.fileno())
    assert "is no socket" in refused(variables(1, "agents"))


def test_only_a_listening_tcp_socket_is_taken_and_the_others_stay_open(hand_over: ExitStack, tmp_path: Path) -> None:
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    put(hand_over, bind("127.0.0.1", 0), datagrams)
    assert "'operations' (descriptor 701): is no listening TCP socket" in refused(variables(2, "agents:operations"))
    assert os.fstat(FIRST)
    assert os.fstat(FIRST + 1)


@pytest.mark.parametrize("kind", ["not listening", "unix"])
def test_a_socket_that_does_not_listen_or_has_no_port_is_refused(
    hand_over: ExitStack, tmp_path: Path, kind: str
) -> None:
    sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET, socket.SOCK_STREAM)
    if kind == "unix":
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
    put(hand_over, sock)
    assert "is no listening TCP socket" in refused(variables(1, "agents"))
