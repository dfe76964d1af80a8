r"""The dialect of `.env` files, strict: what it does not know it refuses with the line.

`KEY=value`, optionally after `export `; `#` begins a comment at the start of a line or after white space;
`'...'` is literal, `"..."` knows \n \t \" and \\. Nothing is expanded, nothing runs over a line's end.
"""

import re
from typing import Final

from broker.errors import SettingsInvalidError
from broker.secret import Encoding, SecretValue

_LINE: Final = re.compile(r"(?:export[ \t]+)?(?P<name>[A-Z_][A-Z0-9_]{0,127})=(?P<value>.*)\Z")
_QUOTED: Final = re.compile(r"""(?:'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\[nt"\\])*)")[ \t]*(?:#.*)?\Z""")
_ESCAPES: Final = {"\\n": "\n", "\\t": "\t", '\\"': '"', "\\\\": "\\"}


def read_dotenv(text: bytes, *, where: str) -> dict[str, SecretValue]:
    """Return the variables of `text`.

    Raises:
        SettingsInvalidError: A line is outside the dialect; names `where` and the line, never the line's text.

    """
    try:
        lines = text.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        message = f"{where}: is not UTF-8"
        raise SettingsInvalidError(message) from None
    found: dict[str, SecretValue] = {}
    for number, raw in enumerate(lines, start=1):
        line = raw.removesuffix("\r").strip(" \t")
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        # A lone CR is the line end of a dialect that would make one value of the whole rest.
        if match is None or "\0" in line or "\r" in line:
            message = f"{where}: line {number}: write NAME=value, the name in upper case"
            raise SettingsInvalidError(message)
        if match["name"] in found:
            message = f"{where}: line {number}: {match['name']} stands twice"
            raise SettingsInvalidError(message)
        value = _value(match["value"], where=f"{where}: line {number}")
        found[match["name"]] = SecretValue(value.encode("utf-8"), encoding=Encoding.TEXT)
    return found


def _value(raw: str, *, where: str) -> str:
    if raw[:1] in {"'", '"'}:
        match = _QUOTED.match(raw)
        if match is None:
            message = f"{where}: the quote is not closed on its line, or something follows it"
            raise SettingsInvalidError(message)
        if match["single"] is not None:
            return match["single"]
        return re.sub(r"\\.", lambda escape: _ESCAPES[escape[0]], match["double"])
    value = re.split(r"[ \t]+#", raw, maxsplit=1)[0].rstrip(" \t")
    if value[:1] in {" ", "\t"}:
        message = f"{where}: no white space follows the =; put quotes around a value that begins with some"
        raise SettingsInvalidError(message)
    return value
