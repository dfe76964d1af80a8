"""A socket that listens, or the reason why there is none."""

import errno
import socket
from typing import Final

from broker.finding import FoundError, found

# The kernel takes no more than its own limit, `net.core.somaxconn`, which is 4096 on Linux.
_BACKLOG: Final = 4096
_LAST_PORT: Final = 65_535


def bind(host: str, port: int) -> socket.socket:
    """Return a listening, non-blocking socket; port 0 takes a free one.

    Raises:
        FoundError: The address is none of this machine's, or the port is taken or not allowed.

    """
    if not 0 <= port <= _LAST_PORT:
        # The resolver would silently take what is left of it in 16 bits.
        where, why = f"port {port}", f"is not between 0 and {_LAST_PORT}"
        raise found(where, "port_invalid", why, "choose one between them")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        where, why = f"host {host!r}", "is no address and no name that this machine knows"
        raise found(where, "host_unknown", why, "write an address, or mend the look-up of names") from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Two sockets may be bound to one port until one of them listens, so the clash is found here.
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _why_not_bound(host, port, error) from None
    return sock


def _why_not_bound(host: str, port: int, error: OSError) -> FoundError:
    where = f"port {port} on {host}"
    match error:
        case OSError(errno=errno.EADDRINUSE):
            return found(where, "port_taken", "another process listens there", "stop it or choose another port")
        case OSError(errno=errno.EADDRNOTAVAIL):
            return found(f"host {host!r}", "host_foreign", "is no address of this machine", "choose one of its own")
        case OSError(errno=errno.EACCES | errno.EPERM):
            return found(where, "port_forbidden", "not allowed for this user", "choose a port from 1024 up")
        case _:
            return found(where, "port_unusable", error.strerror or "can't be bound", "choose another port")
