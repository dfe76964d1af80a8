"""Listening sockets that the service manager hands over: sd_listen_fds(3).

It keeps its own copy of each, so that connections made while the broker restarts wait and none is refused.
"""

import os
import socket
import stat
from collections.abc import Mapping, MutableMapping
from typing import Final

from broker.errors import SettingsInvalidError

AGENTS: Final = "agents"
OPERATIONS: Final = "operations"
_NAMES: Final = (AGENTS, OPERATIONS)
_FIRST_DESCRIPTOR: Final = 3
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_ADVICE: Final = "compare the socket unit with deploy/systemd/broker.socket"


def inherited_sockets(
    environment: MutableMapping[str, str], *, pid: int, first: int = _FIRST_DESCRIPTOR
) -> Mapping[str, socket.socket]:
    """Return the sockets handed over to this process by name, and take the variables away from its children.

    Args:
        environment: Where LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are.
        pid: This process; what is meant for another one is left alone.
        first: The first descriptor.

    Raises:
        SettingsInvalidError: A name is unknown, missing or there twice, or a descriptor is no listening TCP socket.

    """
    said = {name: environment.pop(name, "") for name in _VARIABLES}
    if said["LISTEN_PID"] != str(pid):
        return {}
    if not said["LISTEN_FDS"].isascii() or not said["LISTEN_FDS"].isdecimal():
        message = "LISTEN_FDS: is no number of sockets; start the broker by its units, or take the variable away"
        raise SettingsInvalidError(message)
    count = int(said["LISTEN_FDS"])
    names = said["LISTEN_FDNAMES"].split(":") if said["LISTEN_FDNAMES"] else []
    if len(names) != count:
        message = f"LISTEN_FDNAMES: {len(names)} names for {count} sockets; {_ADVICE}"
        raise SettingsInvalidError(message)
    _check_names(names)
    sockets: dict[str, socket.socket] = {}
    try:
        for descriptor, name in enumerate(names, first):
            sockets[name] = _listening(descriptor, name)
    except SettingsInvalidError:
        # They stay open: they belong to whoever handed them over.
        for sock in sockets.values():
            sock.detach()
        raise
    return sockets


def _check_names(names: list[str]) -> None:
    for name in names:
        if name not in _NAMES:
            message = f"LISTEN_FDNAMES: {name!r} is none of ours; FileDescriptorName= is {' or '.join(_NAMES)}"
            raise SettingsInvalidError(message)
        if names.count(name) > 1:
            message = f"LISTEN_FDNAMES: two sockets are named {name}; one with [::] takes IPv4 and IPv6 alike"
            raise SettingsInvalidError(message)


def _listening(descriptor: int, name: str) -> socket.socket:
    where = f"the socket {name!r} (descriptor {descriptor})"
    try:
        is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError as error:
        message = f"{where}: {error.strerror}; {_ADVICE}"
        raise SettingsInvalidError(message) from None
    if not is_socket:
        message = f"{where}: is no socket; {_ADVICE}"
        raise SettingsInvalidError(message)
    sock = socket.socket(fileno=descriptor)
    internet = sock.family in {socket.AF_INET, socket.AF_INET6} and sock.type == socket.SOCK_STREAM
    if not internet or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        message = f"{where}: is no listening TCP socket; it needs ListenStream=, with a port, and Accept=no"
        raise SettingsInvalidError(message)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
