"""Text from outside, made fit to be shown: on one line, and with nothing in it that hides or moves."""

import re
from typing import Final

# A SPIFFE id may have 2,048 bytes, and nothing else from outside is longer than a name.
MAX_TEXT_CHARACTERS: Final = 2048
CUT: Final = "\u2026"
# C0, DEL, C1 (CSI is 0x9B), zero-width and direction marks, line and paragraph separators, bidi controls,
# invisible operators, lone surrogates, the byte order mark, tags: everything that changes what a terminal
# or a log reader shows without showing itself.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def clean(text: str, *, limit: int = MAX_TEXT_CHARACTERS) -> str:
    """Return `text` cut to `limit` characters, with everything invisible or moving spelled out as an escape."""
    if len(text) > limit:
        text = text[: limit - 1] + CUT
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_spell_out, text)


def _spell_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004  The end of the basic plane.
