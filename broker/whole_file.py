"""Files that readers see whole or not at all, with their mode from the first byte."""

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def replace_whole(file: Path, parts: Iterable[bytes], *, mode: int) -> None:
    """Put `parts` in the place of `file` in one step, durably, and leave nothing beside it when that fails. Blocks.

    Raises:
        OSError: It can't be written; what was there before is there still.

    """
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            # The umask took bits away; these are what was asked for.
            os.fchmod(handle.fileno(), mode)
            handle.writelines(parts)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(file)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    # Where this user may write and not read, there is nothing to sync by; the file is whole all the same.
    with suppress(PermissionError):
        make_names_durable(file.parent)


def make_names_durable(directory: Path) -> None:
    """Return when no crash can take the names in `directory` back. Blocks. Raises: OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
