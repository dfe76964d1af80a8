"""Patterns over references: what policy rules and token scopes are made of. Pure.

A pattern is spelled like a reference. A whole segment of its path, or a whole part of its field, may be `*`
(any one) or `**` (any number, none included). A grant on a thing is a grant on its parts: a pattern without
a field covers the secret as a whole and each of its fields, one with a field covers what lies below it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from broker.errors import MalformedPatternError, MalformedReferenceError
from broker.grammar import MAX_REFERENCE_CHARACTERS, PREVIOUS, Version, cut, read_pointer, read_query
from broker.reference import Reference, Source, spell
from broker.segments import ANY, ONE, Segments, begins_with, includes, matches, matches_prefix

MAX_ANY: Final = 3


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern in its canonical spelling `text`."""

    scheme: str
    segments: Segments
    pointer: Segments
    version: Version | None
    parameters: tuple[tuple[str, str], ...]
    text: str

    def covers_reference(self, reference: Reference) -> bool:
        """Tell whether everything that `reference` reveals lies within this pattern (for allow, for scope)."""
        return self.covers_source(reference.source) and matches_prefix(self.pointer, reference.pointer)

    def covers_source(self, source: Source) -> bool:
        """Tell whether any field that a read of `source` gives lies within this pattern."""
        return (
            self.scheme == source.scheme
            and self.version in (None, source.version)
            and _parameters_covered(self.parameters, source.parameters)
            and matches(self.segments, source.segments)
        )

    def touches_reference(self, reference: Reference) -> bool:
        """Tell whether anything that `reference` reveals lies within this pattern (for deny).

        A reference that names no version may get any number, and one to a whole secret reveals each of its fields.
        """
        return self.touches_source(reference.source) and (
            matches_prefix(self.pointer, reference.pointer) or begins_with(self.pointer, reference.pointer)
        )

    def touches_source(self, source: Source) -> bool:
        """Tell whether anything that one read of `source` gives lies within this pattern."""
        return (
            self.scheme == source.scheme
            and _version_touched(self.version, source.version)
            and matches(self.segments, source.segments)
        )

    def covers_pattern(self, other: "Pattern") -> bool:
        """Tell whether every reference that `other` covers is covered by this pattern."""
        return (
            self.scheme == other.scheme
            and self.version in (None, other.version)
            and _parameters_covered(self.parameters, other.parameters)
            and includes(self.segments, other.segments)
            # What a field covers, its parts are covered too: the same as a `**` at the end of both.
            and includes((*self.pointer, ANY), (*other.pointer, ANY))
        )


def parse_pattern(text: str) -> Pattern:
    """Return the pattern that `text` spells.

    Raises:
        MalformedPatternError: It spells none; names the position and what would be right.

    """
    try:
        parts = cut(text, max_characters=MAX_REFERENCE_CHARACTERS)
        version, decode, parameters = read_query(parts)
        pointer = read_pointer(parts)
    except MalformedReferenceError as error:
        raise MalformedPatternError(error.detail, position=error.position) from None
    if decode is not None:
        message = "a right does not depend on how a value is decoded; leave out decode"
        raise MalformedPatternError(message, position=parts.query_at)
    source = Source(parts.scheme, parts.path, version, parameters)
    _check_wildcards(parts.path.split("/"), parts.path_at)
    field = parts.field or ""
    if field.startswith("/"):
        _check_wildcards(field[1:].split("/"), parts.field_at + 1)
    else:
        _check_wildcards([field], parts.field_at)
    if (source.segments + pointer).count(ANY) > MAX_ANY:
        message = f"a pattern has at most {MAX_ANY} times **"
        raise MalformedPatternError(message, position=parts.path_at)
    return Pattern(parts.scheme, source.segments, pointer, version, parameters, spell(source, pointer, None))


def _check_wildcards(segments: Sequence[str], at: int) -> None:
    for segment in segments:
        if ONE in segment and segment not in {ONE, ANY}:
            message = "a * stands for a whole segment, ** for any number of them; it is never a part of a name"
            raise MalformedPatternError(message, position=at + segment.index(ONE))
        at += len(segment) + 1


def _version_touched(ours: Version | None, theirs: Version | None) -> bool:
    """Tell whether one read of their version may give ours: the previous one may have any number, and be any number."""
    if ours is None or ours == theirs:
        return True
    if PREVIOUS in {ours, theirs}:
        # The current version alone is never the previous one.
        return theirs is not None
    return theirs is None


def _parameters_covered(ours: tuple[tuple[str, str], ...], theirs: tuple[tuple[str, str], ...]) -> bool:
    """Tell whether each engine parameter of theirs is named by ours, with that value or with `*`."""
    if not theirs:
        return True
    named = dict(ours)
    return all(named.get(key) in (ONE, value) for key, value in theirs)
