"""Write a secret to a file that readers see whole or not at all, with its mode from the first byte."""

import argparse
import stat
from pathlib import Path
from typing import Final

from broker.agent.settings import ClientSettingsError
from broker.whole_file import replace_whole

_MODES: Final = ("0400", "0440", "0600", "0640")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where to write, and with which mode."""
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write to FILE instead: in one step, only when that changes it, and not at all when one is refused",
    )
    parser.add_argument(
        "--mode",
        choices=_MODES,
        default="0600",
        help="mode of FILE from its first byte (%(default)s); the group is for an fsGroup or a setgid directory",
    )


def write_secret_file(file: Path, data: bytes, *, mode: int) -> bool:
    """Put `data` in the place of `file` in one step; return whether it differed from what was there.

    A reader that watches the file is not woken for nothing, so the same bytes with the same mode stay as they are.

    Raises:
        ClientSettingsError: It is no regular file, or can't be written; names the file and never its contents.

    """
    try:
        if _is_there(file, data, mode=mode):
            return False
        replace_whole(file, [data], mode=mode)
    except OSError as error:
        message = f"{file}: {error.strerror}; --output names a file in a directory that this user may write to"
        raise ClientSettingsError(message) from None
    return True


def _is_there(file: Path, data: bytes, *, mode: int) -> bool:
    try:
        status = file.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode):
        # Neither a device such as /dev/stdout nor a link may be replaced by a file.
        message = f"{file}: is there and is no regular file; to print the value leave --output out"
        raise ClientSettingsError(message)
    if stat.S_IMODE(status.st_mode) != mode or status.st_size != len(data):
        return False
    try:
        return file.read_bytes() == data
    except PermissionError:
        return False
