"""Files that hold a key: 0600 from the first byte, and refused when others may read them."""

import os
import secrets
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from broker.errors import SettingsInvalidError
from broker.finding import Finding, FoundError, found
from broker.whole_file import make_names_durable

_OTHERS: Final = 0o077
_FINGERPRINT_KEY_BYTES: Final = 32
_ACL_VERSION: Final = b"\x02\x00\x00\x00"
_ACL_OWNER, _ACL_USER, _ACL_MASK, _ACL_READ = 0x01, 0x02, 0x10, 0x04


def write_private(file: Path, data: bytes) -> None:
    """Create `file` with mode 0600, whole or not at all, however the process ends meanwhile.

    Raises:
        SettingsInvalidError: It exists, or can't be written.

    """
    unfinished = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                # The umask can only take bits away from the mode above, and this gives the owner's back.
                os.fchmod(handle.fileno(), 0o600)
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            # Unlike a rename, a link never replaces a file that is there.
            os.link(unfinished, file)
        finally:
            unfinished.unlink()
        make_names_durable(file.parent)
    except FileExistsError:
        message = f"{file}: exists already and is never overwritten; remove it, or name another file"
        raise SettingsInvalidError(message) from None
    except OSError as error:
        message = f"{file}: {error.strerror}"
        raise SettingsInvalidError(message) from None


def read_private(file: Path) -> bytes:
    """Return the bytes of a key file that only its owner may read.

    A group may read it in one case: the owner is root and the group is one of ours, which is how
    Kubernetes mounts a secret volume with `fsGroup`. An access list is taken in one case: the owner is root and
    it lets nobody else but this user read, which is how systemd shows the credentials of a unit.

    Raises:
        FoundError: The file is missing, unreadable, no regular file, or open to others.

    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as handle:
            _gate(file, handle.fileno())
            return handle.read()
    except OSError as error:
        raise FoundError(unreadable(file, error)) from None


def unreadable(file: Path, error: OSError) -> Finding:
    """Return why `file` could not be read."""
    missing = isinstance(error, FileNotFoundError)
    return Finding(
        code="file_missing" if missing else "file_unreadable",
        where=str(file),
        why=error.strerror or "can't be read",
        fix="name a file that is there" if missing else "let the broker's user read it, and its directory too",
    )


def load_or_create_secret(file: Path, *, make: Callable[[], bytes] | None = None) -> bytes:
    """Return the key in `file`, made at the first start: 32 random bytes, or what `make` returns.

    Raises:
        SettingsInvalidError: As `read_private` and `write_private`.

    """
    if not file.exists():
        write_private(file, make() if make else secrets.token_bytes(_FINGERPRINT_KEY_BYTES))
    return read_private(file)


def _gate(file: Path, descriptor: int) -> None:
    status = os.fstat(descriptor)
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise found(file, "file_not_regular", "is no regular file", "name the file itself")
    open_to = mode & _OTHERS
    if open_to == stat.S_IRGRP and status.st_uid == 0:
        acl = _access_list(descriptor)
        ours = status.st_gid in {os.getgid(), *os.getgroups()} if acl is None else _lets_only_us_read(acl)
        if ours:
            return
    if open_to:
        raise found(file, "key_open", f"mode {mode:04o} lets others at the key", _closing(file))
    if status.st_uid not in {0, os.geteuid()}:
        why = f"belongs to user {status.st_uid}, neither to the broker's nor to root"
        raise found(file, "key_owner", why, f"run: chown {os.geteuid()} {file}")


def _closing(file: Path) -> str:
    """Return what closes `file` to others; in a volume that the kubelet writes, nobody can run chmod."""
    if (file.parent / "..data").is_symlink():
        return "give the volume defaultMode: 0400, and the pod an fsGroup that is a group of the broker"
    return f"run: chmod 600 {file}"


def _access_list(descriptor: int) -> bytes | None:
    try:
        return os.getxattr(descriptor, "system.posix_acl_access")
    except OSError:
        # There is none, or the file system knows none.
        return None


def _lets_only_us_read(acl: bytes) -> bool:
    """Tell whether `acl`, as acl(5) and the kernel's xattr have it, names no other user and no group.

    With an access list, the group's bits of the mode are the list's mask, and say nothing of the group.
    """
    entries = struct.iter_unpack("<HHI", acl[4:])
    return acl[:4] == _ACL_VERSION and all(
        not permissions
        or tag in {_ACL_OWNER, _ACL_MASK}
        or (tag == _ACL_USER and permissions == _ACL_READ and number == os.geteuid())
        for tag, permissions, number in entries
    )
