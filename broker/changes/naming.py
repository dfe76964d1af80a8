"""What watches name, in memory once for all of a fleet that watches the same."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from broker.errors import MalformedReferenceError
from broker.reference import Reference, Source, parse

# References that a fleet has in common.
_SHARED: Final = 10_000


class Named(NamedTuple):
    """A reference, and its text as that of the only reference to its source."""

    reference: Reference
    texts: tuple[str]


class Naming:
    """Read the references of watches."""

    def __init__(self) -> None:
        """Begin with none."""
        self._named = lru_cache(maxsize=_SHARED)(_named)

    def read(self, texts: Iterable[str]) -> tuple[dict[str, Named], dict[str, MalformedReferenceError]]:
        """Return what each of `texts` names, by the text that is in memory, and those that are no reference."""
        named: dict[str, Named] = {}
        malformed: dict[str, MalformedReferenceError] = {}
        for text in texts:
            try:
                one = self._named(text)
            except MalformedReferenceError as error:
                malformed[text] = error
            else:
                # The one text in memory, not the one that this agent has sent.
                named[one.texts[0]] = one
        return named, malformed


def texts_by_source(named: Mapping[str, Named]) -> dict[Source, tuple[str, ...]]:
    """Return the texts of each source, which are those in memory where it has one alone."""
    found: dict[Source, tuple[str, ...]] = {}
    for one in named.values():
        source = one.reference.source
        found[source] = (*found[source], *one.texts) if source in found else one.texts
    return found


def _named(text: str) -> Named:
    """Return the reference that `text` spells. Raises: MalformedReferenceError."""
    return Named(parse(text), (text,))
