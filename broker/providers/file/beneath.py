"""Open a file below a directory so that no `..`, no link and no race can leave the directory.

`openat2` with RESOLVE_BENEATH does it in the kernel (Linux 5.6). Where there is none, a walk does the same:
each component is opened relative to the one before it, without following links, and links are followed by
hand, below the root only, which is what makes the `..data` links of Kubernetes work. The kernel does not tell
which directories it passed, so the walk shows them in either case: who may write in one may replace the file.
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
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LOOK: Final = os.O_PATH | os.O_CLOEXEC
_MAX_LINKS: Final = 8
_RACE_TRIES: Final = 3

Visit = Callable[[os.stat_result], None]
Opener = Callable[[int, str, Visit], int]


def open_root(path: str) -> int:
    """Return a descriptor of the directory `path` that can only be used to open what is below it.

    Raises:
        OSError: It is no directory, or not there.

    """
    return os.open(path, _LOOK | os.O_DIRECTORY)


def open_beneath(root: int, path: str, visit: Visit) -> int:
    """Return a descriptor of `path` below the directory `root`, by the kernel where it can, else by the walk.

    Args:
        root: Descriptor of the directory.
        path: Path below it.
        visit: Called with the status of `root` and of each directory on the way; what it raises is passed on.

    Raises:
        OSError: EXDEV or ELOOP when the path would leave the root, EAGAIN when something was swapped
            meanwhile, else what the kernel says.

    """
    try:
        return open_by_kernel(root, path, visit)
    except OSError as error:
        # ENOSYS: an older kernel. EPERM: seccomp profiles that do not know the call answer so.
        if error.errno in {errno.ENOSYS, errno.EPERM}:
            return open_by_walk(root, path, visit)
        raise


def open_by_kernel(root: int, path: str, visit: Visit) -> int:
    """Return a descriptor, opened with openat2(2).

    Raises:
        OSError: As `open_beneath`; ENOSYS where the kernel has no such call.

    """
    descriptor = openat2(root, path)
    try:
        _inspect(root, path, visit, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_by_walk(root: int, path: str, visit: Visit) -> int:
    """Return a descriptor, opened component by component.

    Raises:
        OSError: As `open_beneath`.

    """
    return _walk(root, path, visit, _READ)


def openat2(root: int, path: str) -> int:
    """Return a descriptor that the kernel opened below `root`.

    Raises:
        OSError: As `open_beneath`; ENOSYS where the kernel has no such call.

    """
    _refuse_nul(path)
    how = struct.pack("=QQQ", _READ, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(_RACE_TRIES):
        found = libc.syscall(ctypes.c_long(_OPENAT2), root, os.fsencode(path), how, ctypes.c_size_t(len(how)))
        if found >= 0:
            return int(found)
        # EAGAIN: something was renamed while the kernel looked; the swap of a Kubernetes volume, for one.
        if ctypes.get_errno() != errno.EAGAIN:
            break
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def _inspect(root: int, path: str, visit: Visit, descriptor: int) -> None:
    """Show the directories on the way to what `descriptor` opened; refuse when the way leads elsewhere by now."""
    seen = _walk(root, path, visit, _LOOK)
    try:
        same = os.path.samestat(os.fstat(seen), os.fstat(descriptor))
    finally:
        os.close(seen)
    if not same:
        raise _swapped()


def _walk(root: int, path: str, visit: Visit, flags: int) -> int:
    _refuse_nul(path)
    todo = _parts(path)
    stack = [os.dup(root)]
    links = 0
    try:
        visit(os.fstat(root))
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
                stack.append(_open_here(stack[-1], name, _LOOK | os.O_DIRECTORY))
                visit(os.fstat(stack[-1]))
            else:
                return _open_here(stack[-1], name, flags)
        # Only dots were left: the path names a directory.
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    finally:
        for descriptor in stack:
            os.close(descriptor)


def _parts(path: str) -> list[str]:
    """Return the components, last first; empty ones and single dots name the directory they stand in."""
    return [part for part in path.split("/")[::-1] if part not in {"", "."}]


def _leave(stack: list[int]) -> None:
    if len(stack) == 1:
        raise _outside()
    os.close(stack.pop())


def _link_target(directory: int, name: str) -> str | None:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        return None
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        # EINVAL: it was a link a moment ago.
        raise _swapped() if error.errno == errno.EINVAL else error from None


def _open_here(directory: int, name: str, flags: int) -> int:
    """Return a descriptor of what is no link, as was just seen."""
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
        # Either it has become a link since, or it is a file where a directory has to be.
        now = os.stat(name, dir_fd=directory, follow_symlinks=False)
        raise _swapped() if stat.S_ISLNK(now.st_mode) or stat.S_ISDIR(now.st_mode) else error from None


def _swapped() -> OSError:
    return OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _outside() -> OSError:
    return OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _refuse_nul(path: str) -> None:
    # ctypes would cut the path at the NUL and open another file.
    if "\0" in path:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
