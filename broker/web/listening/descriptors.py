"""File descriptors: enough for every connection that may be open, and some that no connection ever gets.

A broker whose connections take the last descriptor can't open a file, reach its store or write its trail for the
requests that it has accepted. So the connections stay below the limit of the process, and more wait in the kernel.
"""

import resource
from typing import Final

from broker.errors import SettingsInvalidError
from broker.logs import EventLogger

_LOG: Final = EventLogger("broker.descriptors")
# The trail, the listeners, the files of providers while they are read, probes, and the interpreter itself.
_OWN: Final = 96
_FEWEST_CONNECTIONS: Final = 8


def connections_within_limit(wanted: int, *, others: int) -> int:
    """Raise the soft limit as far as needed and allowed, and return how many connections may be open at once.

    Args:
        wanted: Connections that agents may open.
        others: Descriptors that requests need besides them, such as connections to a store.

    Raises:
        SettingsInvalidError: The hard limit leaves less than a handful.

    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + others + _OWN
    limit = needed if soft == resource.RLIM_INFINITY else soft
    if limit < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit >= needed:
        return wanted
    allowed = limit - others - _OWN
    if allowed < _FEWEST_CONNECTIONS:
        message = f"the limit of {limit} open files leaves no room for connections; set LimitNOFILE={needed} or more"
        raise SettingsInvalidError(message)
    _LOG.warning(
        "connections_bounded",
        wanted=wanted,
        allowed=allowed,
        reason=f"the limit of {limit} open files; set LimitNOFILE={needed} or more",
    )
    return allowed
