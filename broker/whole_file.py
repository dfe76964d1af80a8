"""Files that readers see whole or not at all, with their mode from the first byte."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def replace_whole(file: Path, data: bytes, *, mode: int) -> None:
    """Put `data` in the place of `file` in one step, and leave nothing beside it when that fails. Blocks.

    Raises:
        OSError: It can't be written; what was there before is there still.

    """
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            # The umask took bits away; these are what was asked for.
            os.fchmod(handle.fileno(), mode)
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(file)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
