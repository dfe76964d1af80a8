"""References in their one canonical form. Pure: text in, `Reference` out.

Each reference has exactly one canonical spelling; `grammar.py` says what may stand in a text and where. A
resolved value never comes back here.
"""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote

from broker.grammar import MAX_REFERENCE_CHARACTERS, QUERY_SAFE, VAULT, Version, cut, read_pointer, read_query, refuse

_PLAIN_VAULT: Final = re.compile(r"vault:(?P<path>[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)+)(?:#(?P<field>[A-Za-z0-9_-]+))?\Z")


class Source(NamedTuple):
    """What one read reads: a reference without its field and its decoding.

    A named tuple, because it is the key of every look-up and a tuple's hash costs a tenth of a dataclass's.
    """

    scheme: str
    path: str
    version: Version | None = None
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def segments(self) -> tuple[str, ...]:
        """Return the path in segments: `env` has one, `file` and `vault` one for each name between slashes."""
        return tuple(self.path.strip("/").split("/"))


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference in its canonical form.

    Attributes:
        source: What has to be read.
        pointer: The field as decoded JSON pointer tokens; empty for the whole secret.
        decode: `"base64"` when the value is to be decoded before it is handed out, else None.
        text: The one canonical spelling, which `parse` maps to this very object.

    """

    source: Source
    pointer: tuple[str, ...]
    decode: str | None
    text: str

    def __str__(self) -> str:
        """Return the canonical spelling."""
        return self.text

    def __hash__(self) -> int:
        """Return the hash of the canonical spelling, which no other reference has."""
        return hash(self.text)


def parse(text: str, *, max_characters: int = MAX_REFERENCE_CHARACTERS) -> Reference:
    """Return the reference that `text` spells.

    Raises:
        MalformedReferenceError: It spells none; names the position and what would be right.

    """
    plain = _PLAIN_VAULT.match(text) if len(text) <= max_characters else None
    if plain is not None:
        # Nearly every reference: plain ASCII, canonical as it stands.
        field = plain["field"]
        return Reference(Source(VAULT, plain["path"]), (field,) if field is not None else (), None, text)
    parts = cut(text, max_characters=max_characters)
    if (star := parts.path.find("*")) >= 0:
        refuse("a * belongs to the patterns of policies and scopes, not to a reference", parts.path_at + star)
    if parts.field is not None and (star := parts.field.find("*")) >= 0:
        refuse("a * belongs to the patterns of policies and scopes, not to a reference", parts.field_at + star)
    version, decode, parameters = read_query(parts)
    source = Source(parts.scheme, parts.path, version, parameters)
    pointer = read_pointer(parts)
    canonical = spell(source, pointer, decode)
    if len(canonical) > max_characters:
        refuse(f"in its canonical form the reference has more than {max_characters} characters", 0)
    return Reference(source, pointer, decode, canonical)


def spell(source: Source, pointer: tuple[str, ...], decode: str | None) -> str:
    """Return the canonical spelling."""
    pairs = [*source.parameters]
    if source.version is not None:
        pairs.append(("version", str(source.version)))
    if decode is not None:
        pairs.append(("decode", decode))
    query = "&".join(f"{key}={quote(value, safe=QUERY_SAFE)}" for key, value in sorted(pairs))
    field = ""
    if len(pointer) == 1 and not pointer[0].startswith("/"):
        field = f"#{pointer[0]}"
    elif pointer:
        field = "#" + "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in pointer)
    return f"{source.scheme}:{source.path}{'?' if query else ''}{query}{field}"
