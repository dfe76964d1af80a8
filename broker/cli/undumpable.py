"""Keep the memory of a process that holds secrets out of core files and away from its neighbours."""

import ctypes
import os
import resource
import sys
from typing import Final

from broker.errors import SettingsInvalidError

_PR_SET_DUMPABLE: Final = 4


def forbid_dumps() -> None:
    """Forbid core dumps of this process, and reading its memory to others of the same user.

    Both are needed: a `core_pattern` that is a pipe obeys no limit of size, and only the second also shuts
    `/proc/PID/mem` and ptrace. The kernel takes the second back at each `execve`, so the process asks for it
    itself, before it reads a secret. Linux only; elsewhere the limit has to do.

    Raises:
        SettingsInvalidError: The kernel refuses.

    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        message = f"core dumps can't be switched off ({error}); let the broker lower RLIMIT_CORE"
        raise SettingsInvalidError(message) from None
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(ctypes.c_int(_PR_SET_DUMPABLE), *(ctypes.c_ulong(0) for _ in range(4))) != 0:
        why = os.strerror(ctypes.get_errno())
        message = f"core dumps can't be switched off ({why}); let the broker call prctl(PR_SET_DUMPABLE)"
        raise SettingsInvalidError(message)
