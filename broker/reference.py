"""The one grammar of references (docs: design §4). Pure: text in, `Reference` out.

Being written; the types below are the contract that everything else builds on.
"""

from dataclasses import dataclass

MAX_REFERENCE_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class Source:
    """What one read reads: a reference without its field and its decoding. The cache's key."""

    scheme: str
    path: str
    version: int | None = None
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


def parse(text: str, *, max_characters: int = MAX_REFERENCE_CHARACTERS) -> Reference:
    """Return the reference that `text` spells.

    Raises:
        MalformedReferenceError: It spells none; names the position and what would be right.

    """
    raise NotImplementedError
