"""Open a file below a directory so that no `..`, no link and no race can leave the directory.

`openat2` with RESOLVE_BENEATH does it in the kernel (Linux 5.6). Where there is none, a walk does the same:
each component is opened relative to the one before it, without following links, and links are followed by
hand, below the root only, which is what makes the `..data` links of Kubernetes work.
"""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable
from typing import Final

_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_BENEATH: Final = 0x08
# O_NONBLOCK: opening a FIFO that nobody writes must not hang; the caller refuses it by its type.
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MAX_LINKS: Final = 8
_RACE_TRIES: Final = 3

Opener = Callable[[int, str], int]


def open_root(path: str) -> int:
    """Return a descriptor of the directory `path` that can only be used to open what is below it.

    Raises:
        OSError: It is no directory, or not there.

    """
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_beneath(root: int, path: str) -> int:
    """Return a descriptor of `path` below the directory `root`, by the kernel where it can, else by the walk.

    Raises:
        OSError: EXDEV or ELOOP when the path would leave the root, else what the kernel says.

    """
    try:
        return open_by_kernel(root, path)
    except OSError as error:
        # ENOSYS: an older kernel. EPERM: seccomp profiles that do not know the call answer so.
        if error.errno in {errno.ENOSYS, errno.EPERM}:
            return open_by_walk(root, path)
        raise


def open_by_kernel(root: int, path: str) -> int:
    """Return a descriptor, opened with openat2(2).

    Raises:
        OSError: As `open_beneath`; ENOSYS where the kernel has no such call.

    """
    _refuse_nul(path)
    how = struct.pack("=QQQ", _FLAGS, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(_RACE_TRIES):
        found = libc.syscall(_OPENAT2, root, os.fsencode(path), how, len(how))
        if found >= 0:
            return int(found)
        # EAGAIN: something was renamed while the kernel looked; the swap of a Kubernetes volume, for one.
        if ctypes.get_errno() != errno.EAGAIN:
            break
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def open_by_walk(root: int, path: str) -> int:
    """Return a descriptor, opened component by component.

    Raises:
        OSError: As `open_beneath`.

    """
    _refuse_nul(path)
    # Empty parts and single dots name the directory they stand in.
    todo = _parts(path)
    stack = [os.dup(root)]
    links = 0
    try:
        while todo:
            name = todo.pop()
            if name == "..":
                _leave(stack)
            elif (target := _link_target(stack[-1], name)) is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if target.startswith("/"):
                    raise _outside()
                todo.extend(_parts(target))
            elif todo:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                stack.append(os.open(name, flags, dir_fd=stack[-1]))
            else:
                return os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=stack[-1])
        # Only dots were left: the path names a directory.
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    finally:
        for descriptor in stack:
            os.close(descriptor)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/")[::-1] if part not in {"", "."}]


def _leave(stack: list[int]) -> None:
    if len(stack) == 1:
        raise _outside()
    os.close(stack.pop())


def _link_target(directory: int, name: str) -> str | None:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return os.readlink(name, dir_fd=directory) if stat.S_ISLNK(status.st_mode) else None


def _outside() -> OSError:
    return OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _refuse_nul(path: str) -> None:
    # ctypes would cut the path at the NUL and open another file.
    if "\0" in path:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
