"""The text of a file that an agent's author writes: UTF-8, and bounded."""

import sys
from pathlib import Path
from typing import BinaryIO, Final

from broker.agent.template import TemplateInvalidError

_STANDARD_INPUT: Final = Path("-")
_MAX_BYTES: Final = 1024 * 1024


def read_text(file: Path) -> str:
    """Return the text of `file`.

    Raises:
        TemplateInvalidError: It can't be read, is too large, or is not UTF-8; names it.

    """
    try:
        with file.open("rb") as handle:
            return _text(handle, name=str(file))
    except OSError as error:
        message = f"{file}: {error.strerror}"
        raise TemplateInvalidError(message) from None


def read_argument(file: Path) -> str:
    """Return the text of a named file, or of the standard input for `-`. Raises: TemplateInvalidError."""
    return _text(sys.stdin.buffer, name="-") if file == _STANDARD_INPUT else read_text(file)


def _text(handle: BinaryIO, *, name: str) -> str:
    data = handle.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        message = f"{name}: is larger than {_MAX_BYTES} bytes"
        raise TemplateInvalidError(message)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        message = f"{name}: is not UTF-8"
        raise TemplateInvalidError(message) from None
