"""The grammar of references and patterns: their words, their separators, and what stands between them. Pure.

A text is cut in the order of RFC 3986, `scheme:path?query#field`. Nothing is decoded but the values of a query,
once; whatever could be read in two ways is refused with the position of the offending character.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Final, Literal, NoReturn
from urllib.parse import quote, unquote

from broker.errors import MalformedReferenceError

MAX_REFERENCE_CHARACTERS: Final = 1024
ENV: Final = "env"
FILE: Final = "file"
VAULT: Final = "vault"
PREVIOUS: Final = "previous"
# A number, or the version before the current one, whatever its number is.
Version = int | Literal["previous"]

KINDS: Final = (
    "a reference is ${NAME} or env:NAME (a declared variable), /abs/path or file:/abs/path (a mounted file), "
    "or vault:mount/path#field (a secret of Vault or OpenBao)"
)
_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,127}\Z")
_SHELL: Final = re.compile(r"\$(?:\{(?P<braced>[^}]*)\}|<(?P<angled>[^>]*)>|(?P<bare>[^{<].*))\Z", re.DOTALL)
_VERSION: Final = re.compile(r"(?:[1-9][0-9]{0,8}|previous)\Z")
_PARAMETER: Final = re.compile(r"[a-z][a-z0-9_]*\Z")
# What a query value may hold unescaped; the rest is percent-encoded, in upper case.
QUERY_SAFE: Final = "-._~:/@!$()*+,;="


@dataclass(frozen=True, slots=True)
class Parts:
    """A reference or a pattern, cut at its separators and checked for characters; positions index the text."""

    scheme: str
    path: str
    path_at: int
    query: str | None
    query_at: int
    field: str | None
    field_at: int


def cut(text: str, *, max_characters: int) -> Parts:
    """Return the parts of `text`, its characters checked and its path's segments too.

    Raises:
        MalformedReferenceError: It is no reference and no pattern.

    """
    if len(text) > max_characters:
        refuse(f"a reference has at most {max_characters} characters", max_characters)
    _check_characters(text)
    scheme, start, rest = _scheme_of(text)
    head, hash_sign, field = rest.partition("#")
    path, question, query = head.partition("?")
    query_at = start + len(path) + 1
    field_at = start + len(head) + 1
    parts = Parts(
        scheme=scheme,
        path=path,
        path_at=start,
        query=query if question else None,
        query_at=query_at,
        field=field if hash_sign else None,
        field_at=field_at,
    )
    _check_path(parts)
    _check_field(parts)
    return parts


def read_query(parts: Parts) -> tuple[Version | None, str | None, tuple[tuple[str, str], ...]]:
    """Return version, decoding and engine parameters, each key once.

    Raises:
        MalformedReferenceError: A key is unknown, twice, or has a value that it can't have.

    """
    if parts.query is None:
        return None, None, ()
    found: dict[str, str] = {}
    at = parts.query_at
    for pair in parts.query.split("&"):
        key, equals, raw = pair.partition("=")
        if not equals or _PARAMETER.match(key) is None or not raw:
            refuse("the query is key=value pairs between &, each with a lower-case key and a value", at)
        if key in found:
            refuse("this key stands twice in the query", at)
        found[key] = _query_value(raw, at + len(key) + 1)
        _check_pair(parts.scheme, key, found[key], at)
        at += len(pair) + 1
    version = found.pop("version", None)
    decode = found.pop("decode", None)
    return _version_of(version), decode, tuple(sorted(found.items()))


def read_pointer(parts: Parts) -> tuple[str, ...]:
    """Return the field as JSON pointer tokens (RFC 6901 §4); none for the whole secret.

    Raises:
        MalformedReferenceError: A token is empty, or has a ~ that is neither ~0 nor ~1.

    """
    field = parts.field
    if field is None:
        return ()
    if not field.startswith("/"):
        return (field,)
    tokens = []
    at = parts.field_at + 1
    for raw in field[1:].split("/"):
        if not raw:
            refuse("a JSON pointer has no empty part here", at)
        if raw != raw.strip(" "):
            refuse("no part of a JSON pointer begins or ends with a space", at)
        if re.search(r"~(?![01])", raw):
            refuse("in a JSON pointer, ~ is written ~0 and / is written ~1", at)
        tokens.append(raw.replace("~1", "/").replace("~0", "~"))
        at += len(raw) + 1
    return tuple(tokens)


def _scheme_of(text: str) -> tuple[str, int, str]:
    """Return the canonical scheme, where the rest begins, and the rest."""
    if text.startswith("$"):
        shell = _SHELL.match(text)
        if shell is None:
            refuse("a variable is written ${NAME}, with nothing after the brace", 0)
        group = shell.lastgroup or "bare"
        if (query := re.search(r"[?#]", shell[group])) is not None:
            # A shell reads ${NAME?text} as a check of its own.
            at = shell.start(group) + query.start()
            refuse("this spelling holds a name alone; with a query it is written env:NAME?decode=base64", at)
        return ENV, shell.start(group), shell[group]
    if text.startswith("/"):
        return FILE, 0, text
    scheme, colon, rest = text.partition(":")
    if colon and scheme in {ENV, FILE, VAULT, "bao"} and not rest.startswith("//"):
        return (VAULT if scheme == "bao" else scheme), len(scheme) + 1, rest
    return refuse(_no_reference(scheme if colon else "", rest, text), 0)


def _no_reference(scheme: str, rest: str, text: str) -> str:
    """Return what is wrong with a text that begins like no reference, for the mistakes that people make."""
    hint = "this is no reference"
    if not text:
        hint = "the reference is empty; in a shell, ${NAME} stands in single quotes"
    elif scheme in {ENV, FILE, VAULT, "bao"}:
        hint = f"a reference is no URL: leave out the // after {scheme}:"
    elif _NAME.match(text):
        hint = "a variable is written ${NAME} or env:NAME"
    elif rest and _PARAMETER.match(scheme):
        hint = "no reference has this word before its colon"
    return f"{hint}; {KINDS}"


def _check_characters(text: str) -> None:
    # Not printable are white space other than the space, controls, invisible and unassigned characters, and line ends.
    if "\\" in text or not text.isprintable():
        position = next(at for at, character in enumerate(text) if character == "\\" or not character.isprintable())
        if text[position] == "\\":
            refuse(f"a backslash is never part of a reference; {KINDS}", position)
        refuse(f"U+{ord(text[position]):04X} is an invisible or control character, which no reference holds", position)
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        refuse("the text is not in Unicode's normal form C; write the composed characters", _first_abnormal(text))


def _first_abnormal(text: str) -> int:
    """Return where the first character begins that is not in normal form C; 0 if it hangs together with all others.

    Found by looking at each character with its marks and at neighbours, and without the normal form of the text, which
    takes as long as the square of the length to make when marks stand in the wrong order.
    """
    before = begin = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or not unicodedata.combining(text[end]):
            if not unicodedata.is_normalized("NFC", text[begin:end]):
                return begin
            if not unicodedata.is_normalized("NFC", text[before:end]):
                return before
            before, begin = begin, end
    return 0


def _check_path(parts: Parts) -> None:
    path, at = parts.path, parts.path_at
    if parts.scheme == ENV:
        # A whole-segment * is left to `parse` to refuse, and to patterns to take.
        if path != "*" and _NAME.match(path) is None:
            refuse("a variable's name has upper-case letters, digits and _, and begins with no digit", at)
        return
    if "%" in path:
        refuse("nothing in a path is percent-encoded: write the character itself", at + path.find("%"))
    if parts.scheme == FILE:
        if not path.startswith("/"):
            refuse("a file is named by its absolute path, which begins with /", at)
        path, at = path[1:], at + 1
        if (hidden := re.search(r"(?:^|/)(?=\.\.)", path)) is not None:
            # `..data` and its like lead to files that have another name, which is the one that policies speak about.
            refuse("no segment begins with two dots, where Kubernetes keeps what its volumes show", at + hidden.end())
    elif "/" not in path and path != "**":
        refuse("a secret is named by its mount and a path below it: vault:mount/path#field", at)
    _check_segments(path, at)


def _check_segments(path: str, at: int) -> None:
    for segment in path.split("/"):
        if not segment:
            refuse("a path has no empty segment: no // and no / at its end", at)
        if segment.endswith("."):
            refuse("no segment is . or .. or ends in a dot", at + len(segment) - 1)
        if segment != segment.strip(" "):
            refuse("no segment begins or ends with a space", at)
        at += len(segment) + 1


def _check_field(parts: Parts) -> None:
    field, at = parts.field, parts.field_at
    if field is None:
        return
    if parts.scheme != VAULT:
        refuse(f"{parts.scheme}: references have no field; leave out the # and what follows", at - 1)
    if not field:
        refuse("the field after # is empty; leave out the # for the whole secret", at - 1)
    for character, text in (
        ("#", "a second # is never part of a reference; a version is written ?version=N before the #"),
        ("?", "the query comes before the #: vault:mount/path?version=3#field"),
        ("%", "nothing in a field is percent-encoded: write the character itself"),
    ):
        if character in field:
            refuse(text, at + field.find(character))
    if field != field.strip(" "):
        refuse("a field neither begins nor ends with a space", at)


def _query_value(raw: str, at: int) -> str:
    """Return the value, decoded once; only the canonical encoding of a value is taken."""
    value = unquote(raw, errors="replace")
    if quote(value, safe=QUERY_SAFE) != raw:
        refuse("a value of the query is percent-encoded in upper case, and only where it has to be", at)
    try:
        _check_characters(value)
    except MalformedReferenceError as error:
        raise MalformedReferenceError(error.detail, position=at) from None
    return value


def _version_of(text: str | None) -> Version | None:
    if text is None:
        return None
    return PREVIOUS if text == PREVIOUS else int(text)


def _check_pair(scheme: str, key: str, value: str, at: int) -> None:
    if key == "decode":
        if value != "base64":
            refuse("decode is base64 or is left out", at)
    elif scheme != VAULT:
        refuse(f"{scheme}: references have no such parameter; only decode=base64 may follow its ?", at)
    elif key == "version" and _VERSION.match(value) is None:
        refuse("version is a number from 1 on, without leading zeros, or previous", at)


def refuse(detail: str, position: int) -> NoReturn:
    """Raise `MalformedReferenceError`."""
    raise MalformedReferenceError(detail, position=position)
