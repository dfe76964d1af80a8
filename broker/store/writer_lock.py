"""The lock that lets one broker alone write a trail, and tells the next one who holds it."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from broker.errors import SettingsInvalidError

_LONGEST_NOTE: Final = 512


class WriterLock:
    """A lock on a file of its own; the kernel frees it with the process, however that ends.

    The file says who holds it, for people alone: what it says of a process that is gone binds nobody.
    """

    def __init__(self, file: Path) -> None:
        """Take the file, which is made when it is first locked and never removed."""
        self._file = file
        self._descriptor: int | None = None

    def take(self) -> None:
        """Lock the file; a second call does nothing.

        Raises:
            SettingsInvalidError: Another process holds the lock, or the file can't be opened.

        """
        if self._descriptor is not None:
            return
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            message = f"{self._file}: {error.strerror}"
            raise SettingsInvalidError(message) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(descriptor)
            os.close(descriptor)
            message = (
                f"{self._file}: another broker writes this audit trail ({holder}); "
                "stop it, or give this one a state_directory of its own"
            )
            raise SettingsInvalidError(message) from None
        # On a full disk the note is missing and the lock is as good.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {os.uname().nodename}\n".encode(), 0)
        self._descriptor = descriptor

    def give_back(self) -> None:
        """Unlock the file; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Return who holds the lock, as far as its note tells."""
    with suppress(OSError, ValueError):
        pid, host = os.pread(descriptor, _LONGEST_NOTE, 0).decode("ascii").split()
        # A number of another container or machine on a shared volume means nothing here without its host.
        if pid.isdecimal() and host.isprintable():
            return f"process {pid} on {host}"
    return "process unknown"
