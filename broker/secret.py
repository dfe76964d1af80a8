"""What is secret, in types that refuse to show it.

`SecretValue` is one value, `SecretDocument` everything that one read of a source gave, `Reading` that
document with what may be told about it. The only ways out are `reveal` and `reveal_text`. Python can't
wipe memory (see SECURITY.md): the promise is few copies, no `repr`, no pickle, no log.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from json.encoder import encode_basestring_ascii
from typing import Any, Final, NoReturn, final

from broker import written_json
from broker.errors import MissingPart, SecretMissingError, SecretUnusableError

MASK: Final = "***"
# Of values that may be kept beside any document, so that the structure of a small one is no matter.
_SMALL_BYTES: Final = 4096
_ARRAY_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")


class Encoding(StrEnum):
    """How a value is written in an answer."""

    TEXT = "utf-8"
    BASE64 = "base64"
    JSON = "json"


class _Opaque:
    """Refuse every way in which Python shows or copies an object by accident."""

    __slots__ = ()

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        return MASK

    def __format__(self, _spec: str, /) -> str:
        return MASK

    def __reduce_ex__(self, _protocol: object, /) -> NoReturn:
        message = f"a {type(self).__name__} can't be copied or serialised"
        raise TypeError(message)

    def __len__(self) -> NoReturn:
        message = f"a {type(self).__name__} has no len(), which would tell its length in a log"
        raise TypeError(message)

    def __iter__(self) -> NoReturn:
        message = f"a {type(self).__name__} can't be iterated"
        raise TypeError(message)

    def __bool__(self) -> bool:
        return True


@final
class SecretValue(_Opaque):
    """One secret value: its bytes, and how an answer writes them."""

    __slots__ = ("_data", "encoding")
    __hash__ = None  # type: ignore[assignment]  # A hash would let a value be looked up in a table.

    def __init__(self, data: bytes, *, encoding: Encoding) -> None:
        """Wrap `data`; with `Encoding.TEXT` and `Encoding.JSON` it is valid UTF-8."""
        self._data = data
        self.encoding = encoding

    @classmethod
    def from_bytes(cls, data: bytes) -> "SecretValue":
        """Wrap bytes of unknown kind: text if they are UTF-8, else base64 in the answer."""
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            return cls(data, encoding=Encoding.BASE64)
        return cls(data, encoding=Encoding.TEXT)

    def __eq__(self, other: object) -> bool:
        """Compare in a time that tells nothing of where two values differ."""
        if not isinstance(other, SecretValue):
            return NotImplemented
        return hmac.compare_digest(self._data, other._data)

    @property
    def size(self) -> int:
        """Return the number of bytes, for limits; never log it."""
        return len(self._data)

    @property
    def answer_size(self) -> int:
        """Return how many bytes it takes in an answer, where text is escaped; for limits, never log it."""
        if self.encoding is Encoding.TEXT:
            return len(encode_basestring_ascii(self._data.decode("utf-8")))
        if self.encoding is Encoding.BASE64:
            return 4 * -(-len(self._data) // 3) + 2
        return len(self._data)

    def reveal(self) -> bytes:
        """Return the bytes; every call of this is a place where a secret leaves its type."""
        return self._data


@final
class SecretDocument(_Opaque):
    """Everything that one read of one source gave: a scalar, or named fields below each other."""

    __slots__ = ("_kept", "_root", "_selected", "size")

    def __init__(self, root: object, *, size: int) -> None:
        """Wrap `root`: bytes for a scalar, or what `written_json.read` made of an object.

        Args:
            root: `bytes`, or a mapping of JSON values.
            size: The bytes that count against the cache's bound.

        """
        self._root = root
        self._selected: dict[tuple[str, ...], SecretValue] = {}
        self._kept = 0
        self.size = size

    @classmethod
    def of_bytes(cls, data: bytes) -> "SecretDocument":
        """Wrap a source that has no fields: a file, a variable."""
        return cls(data, size=len(data))

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any], *, size: int) -> "SecretDocument":
        """Wrap a source with named fields: the data of a KV secret."""
        return cls(fields, size=size)

    @property
    def has_fields(self) -> bool:
        """Tell whether it has named fields; a scalar has none."""
        return not isinstance(self._root, bytes)

    def select(self, pointer: tuple[str, ...]) -> SecretValue:
        """Return what stands at `pointer`; the empty pointer is the whole document.

        A JSON string comes back as its text, anything else as JSON, numbers as the source wrote them.

        Raises:
            SecretMissingError: There is no such field; the detail names how far the pointer got.
            SecretUnusableError: The text is no valid Unicode (a lone surrogate).

        """
        known = self._selected.get(pointer)
        if known is None:
            known = _value_of(self._walk(pointer))
            # Fields that lie in each other have the same bytes again and again; the cache counts the document alone.
            if self._kept + known.size <= 2 * self.size + _SMALL_BYTES:
                self._selected[pointer] = known
                self._kept += known.size
        return known

    def keeps(self, pointer: tuple[str, ...]) -> bool:
        """Tell whether the value at `pointer` is there already; all that are kept are at most twice the document."""
        return pointer in self._selected

    def whole(self) -> SecretValue:
        """Return the whole document as JSON, made anew; for the sealed file, which asks each document once."""
        return _value_of(self._root)

    def _walk(self, pointer: tuple[str, ...]) -> object:
        here: object = self._root
        for depth, token in enumerate(pointer):
            if isinstance(here, Mapping) and token in here:
                here = here[token]
            elif isinstance(here, list) and _is_index(token) and int(token) < len(here):
                here = here[int(token)]
            else:
                where = "/".join(pointer[: depth + 1])
                message = f"the secret is there and has no field {where!r}"
                raise SecretMissingError(message, part=MissingPart.FIELD)
        return here


def _is_index(part: str) -> bool:
    """Tell whether a JSON pointer token may index an array (RFC 6901 §4)."""
    return _ARRAY_INDEX.fullmatch(part) is not None


def _value_of(node: object) -> SecretValue:
    if isinstance(node, bytes):
        return SecretValue.from_bytes(node)
    try:
        if isinstance(node, str):
            return SecretValue(node.encode("utf-8"), encoding=Encoding.TEXT)
        return SecretValue(written_json.spell(node).encode("utf-8"), encoding=Encoding.JSON)
    except (UnicodeEncodeError, ValueError):
        message = "the value is no valid Unicode or no valid JSON, so it can't be written in an answer"
        raise SecretUnusableError(message) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What the back end says of a credential that it made for this one read.

    Attributes:
        handle: The back end's own name of it, never shown; empty when it can't be renewed or revoked by name.
        seconds: How long it lives from the moment at which the read began, unless it is renewed.
        renewable: It can be made to live longer.
        hangs: It ends with what it was minted under.

    """

    handle: str = field(repr=False)
    seconds: float
    renewable: bool
    hangs: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What its owner says about a secret, with durations in seconds.

    Attributes:
        owner: Who answers for it.
        classification: How much harm it can do, in the owner's words.
        max_age: How long a value may serve after its reading, stale or not.
        rotation_age: How old a version may grow before it had to be rotated.
        overlap: How long the previous version goes on counting after a new one was written.

    """

    owner: str = ""
    classification: str = ""
    max_age: float | None = None
    rotation_age: float | None = None
    overlap: float | None = None


NO_FACTS: Final = Facts()


@dataclass(frozen=True, slots=True)
class Reading:
    """One consistent read of a source, and what may be told about it.

    Attributes:
        document: What was read.
        version: The source's own name of this version, None where it has none.
        not_after: Wall time (seconds) after which the source itself says the value is gone, or None.
        upstream_request: The source's id of the read, which joins our audit trail with its own.
        created_at: Wall time (seconds) at which this version was written, None where the source does not say.
        lease: What was made for this one read, None when others may be given the same.
        facts: What its owner says about it.

    """

    document: SecretDocument
    version: str | None = None
    not_after: float | None = None
    upstream_request: str | None = None
    created_at: float | None = None
    lease: Lease | None = None
    facts: Facts = NO_FACTS

    def is_overdue(self, now: float) -> bool:
        """Tell whether its owner wanted it rotated before the wall time `now`."""
        if self.created_at is None or self.facts.rotation_age is None:
            return False
        return now - self.created_at > self.facts.rotation_age
