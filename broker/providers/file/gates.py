"""Which roots, directories and files the broker takes secrets out of: never what others could have written."""

import os
import stat
from pathlib import Path

from broker.errors import SecretUnusableError, SourceUnavailableError
from broker.providers.file.beneath import open_root
from broker.providers.file.settings import RootKind, RootSettings


def open_declared(root: RootSettings) -> int:
    """Return a descriptor of the root's directory, which the caller closes.

    Raises:
        SourceUnavailableError: It is not there.

    """
    try:
        return open_root(str(root.path))
    except OSError:
        # Not "missing": a volume that is not mounted says nothing about what is in it.
        message = f"{root.path}: no such directory, or out of the broker's reach; is its volume mounted?"
        raise SourceUnavailableError(message) from None


def gate_file(kind: RootKind, status: os.stat_result, *, path: str) -> None:
    """Refuse a file that others could have written, or could read where they should not.

    Raises:
        SecretUnusableError: Its type, its names, its owner or its mode; says what to run.

    """
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        message = "this is no regular file"
        raise SecretUnusableError(message)
    if status.st_nlink > 1:
        message = "the file has a second name (a hard link), which may lie outside the root"
        raise SecretUnusableError(message)
    if status.st_uid not in {0, os.geteuid()}:
        message = f"the file belongs to user {status.st_uid}, neither to the broker's nor to root"
        raise SecretUnusableError(message)
    if mode & ~_allowed(kind, status):
        message = f"mode {mode:04o} is open to others; run: chmod 600 {path} (or declare the kind of its root)"
        raise SecretUnusableError(message)


def gate_way(root: RootSettings) -> None:
    """Refuse a root in whose place others could put a link to a directory of ours.

    Raises:
        SecretUnusableError: They could; says what to run.
        OSError: A directory above the root can't be looked at.

    """
    for above in {*root.path.parents, *Path(os.path.realpath(root.path)).parents}:
        gate_directory(above.stat())
    for name in (root.path, *root.path.parents):
        status = name.lstat()
        if stat.S_ISLNK(status.st_mode) and status.st_uid not in {0, os.geteuid()}:
            message = f"a link above this file belongs to user {status.st_uid}; run: chown -h root {name}"
            raise SecretUnusableError(message)


def gate_directory(status: os.stat_result) -> None:
    """Refuse a directory in which others could put a file of their own in the place of ours.

    Raises:
        SecretUnusableError: They could; says what to run.

    """
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode)
        message = f"mode {mode:04o}: others may write in a directory above this file; run: chmod go-w on it"
        raise SecretUnusableError(message)
    if status.st_uid not in {0, os.geteuid()}:
        message = (
            f"a directory above this file belongs to user {status.st_uid}, neither to the broker's nor to root, "
            "who may put a link to another secret there; run: chown root on it"
        )
        raise SecretUnusableError(message)


def _allowed(kind: RootKind, status: os.stat_result) -> int:
    """Return the mode bits that a file of this kind of root may have; writing by others is never one."""
    match kind:
        case RootKind.PRIVATE:
            return 0o700
        case RootKind.KUBERNETES if status.st_mode & stat.S_IROTH:
            # A secret volume without fsGroup is 0644.
            return 0o744
        case RootKind.KUBERNETES:
            # With fsGroup the kubelet, which is root, makes 0440 out of 0400, for a group of ours.
            ours = status.st_uid == 0 and status.st_gid in {os.getegid(), *os.getgroups()}
            return 0o740 if ours else 0o700
        case RootKind.WORLD_READABLE:
            return 0o744
