"""Files that hold a key: 0600 from the first byte, and refused when others may read them."""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from broker.errors import SettingsInvalidError

_OTHERS: Final = 0o077
_FINGERPRINT_KEY_BYTES: Final = 32


def write_private(file: Path, data: bytes) -> None:
    """Create `file` with mode 0600 before the first byte is in it.

    Raises:
        SettingsInvalidError: It exists, or can't be written.

    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            # The umask can only take bits away from the mode above, and this gives the owner's back.
            os.fchmod(handle.fileno(), 0o600)
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
    except FileExistsError:
        message = f"{file}: exists already and is never overwritten; remove it, or name another file"
        raise SettingsInvalidError(message) from None
    except OSError as error:
        message = f"{file}: {error.strerror}"
        raise SettingsInvalidError(message) from None


def read_private(file: Path) -> bytes:
    """Return the bytes of a key file that only its owner may read.

    A group may read it in one case: the owner is root and the group is one of ours, which is how
    Kubernetes mounts a secret volume with `fsGroup`.

    Raises:
        SettingsInvalidError: The file is missing, unreadable, no regular file, or open to others.

    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as handle:
            _gate(file, os.fstat(handle.fileno()))
            return handle.read()
    except OSError as error:
        message = f"{file}: {error.strerror}"
        raise SettingsInvalidError(message) from None


def load_or_create_secret(file: Path, *, make: Callable[[], bytes] | None = None) -> bytes:
    """Return the key in `file`, made at the first start: 32 random bytes, or what `make` returns.

    Raises:
        SettingsInvalidError: As `read_private` and `write_private`.

    """
    if not file.exists():
        write_private(file, make() if make else secrets.token_bytes(_FINGERPRINT_KEY_BYTES))
    return read_private(file)


def _gate(file: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        message = f"{file}: is no regular file"
        raise SettingsInvalidError(message)
    open_to = mode & _OTHERS
    if open_to == stat.S_IRGRP and status.st_uid == 0 and status.st_gid in {os.getgid(), *os.getgroups()}:
        return
    if open_to:
        message = f"{file}: mode {mode:04o} lets others at the key; run: chmod 600 {file}"
        raise SettingsInvalidError(message)
    if status.st_uid not in {0, os.geteuid()}:
        message = f"{file}: belongs to user {status.st_uid}, neither to the broker's nor to root"
        raise SettingsInvalidError(message)
