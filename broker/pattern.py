"""Patterns over references: what policy rules and token scopes are made of. Pure.

A pattern is spelled like a reference. A whole segment of its path, or a whole part of its field, may be `*`
(any one) or `**` (any number, none included). A grant on a thing is a grant on its parts: a pattern without
a field covers the secret as a whole and each of its fields, one with a field covers what lies below it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from broker.errors import MalformedPatternError, MalformedReferenceError, ScopeRefusedError
from broker.reference import (
    MAX_REFERENCE_CHARACTERS,
    PREVIOUS,
    Reference,
    Source,
    Version,
    cut,
    read_pointer,
    read_query,
    spell,
)

ONE: Final = "*"
ANY: Final = "**"
MAX_ANY: Final = 3
MAX_SCOPE_CHARACTERS: Final = 4096
MAX_SCOPE_PATTERNS: Final = 64
# Two patterns as people write them need a few hundred; the bound keeps the time of the oddest ones small.
_MAX_INCLUSION_STEPS: Final = 20_000
# RFC 6749 §3.3 allows neither space, quote nor backslash in a scope token; these need no escape.
_SCOPE_SAFE: Final = "-._~:/#?=&@!$()*+,;"

Segments = tuple[str, ...]


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
        source = reference.source
        return (
            self.scheme == source.scheme
            and self.version in (None, source.version)
            and _parameters_covered(self.parameters, source.parameters)
            and _matches(self.segments, source.segments)
            and _matches_prefix(self.pointer, reference.pointer)
        )

    def touches_reference(self, reference: Reference) -> bool:
        """Tell whether anything that `reference` reveals lies within this pattern (for deny).

        A reference that names no version may get any number, and one to a whole secret reveals each of its fields.
        """
        return self.touches_source(reference.source) and (
            _matches_prefix(self.pointer, reference.pointer) or _begins_with(self.pointer, reference.pointer)
        )

    def touches_source(self, source: Source) -> bool:
        """Tell whether anything that one read of `source` gives lies within this pattern."""
        return (
            self.scheme == source.scheme
            and _version_touched(self.version, source.version)
            and _matches(self.segments, source.segments)
        )

    def covers_pattern(self, other: "Pattern") -> bool:
        """Tell whether every reference that `other` covers is covered by this pattern."""
        return (
            self.scheme == other.scheme
            and self.version in (None, other.version)
            and _parameters_covered(self.parameters, other.parameters)
            and _includes(self.segments, other.segments)
            # What a field covers, its parts are covered too: the same as a `**` at the end of both.
            and _includes((*self.pointer, ANY), (*other.pointer, ANY))
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


def parse_scope(text: str) -> tuple[Pattern, ...]:
    """Return the patterns of an OAuth scope (RFC 6749 §3.3): one pattern a token, percent-encoded once.

    Raises:
        ScopeRefusedError: It is empty, too long, or one of its tokens is no pattern in its one spelling.

    """
    if not text:
        message = "the scope is empty, which would grant nothing; name the references that the token is for"
        raise ScopeRefusedError(message)
    tokens = text.split(" ")
    if len(text) > MAX_SCOPE_CHARACTERS or len(tokens) > MAX_SCOPE_PATTERNS:
        message = f"a scope has at most {MAX_SCOPE_CHARACTERS} characters and {MAX_SCOPE_PATTERNS} patterns"
        raise ScopeRefusedError(message)
    patterns: dict[str, Pattern] = {}
    for number, token in enumerate(tokens, start=1):
        pattern = _scope_token(token, number)
        patterns[pattern.text] = pattern
    return tuple(patterns.values())


def format_scope(patterns: tuple[Pattern, ...]) -> str:
    """Return the OAuth scope of `patterns`."""
    return " ".join(quote(pattern.text, safe=_SCOPE_SAFE) for pattern in patterns)


def _scope_token(token: str, number: int) -> Pattern:
    text = unquote(token, errors="replace")
    try:
        # Printed again it has to be the same, so that one pattern has one spelling and nothing hides in an escape.
        if quote(text, safe=_SCOPE_SAFE) == token:
            pattern = parse_pattern(text)
            if pattern.text == text:
                return pattern
            message = f"pattern {number} of the scope is not in its canonical spelling"
            raise ScopeRefusedError(message)
    except (MalformedPatternError, UnicodeEncodeError):
        pass
    message = f"pattern {number} of the scope is no pattern of references in its canonical spelling"
    raise ScopeRefusedError(message)


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


def _matches(pattern: Segments, segments: Segments) -> bool:
    """Tell whether `pattern` matches all of `segments`, in at most length times length steps."""
    if ANY not in pattern:
        return len(pattern) == len(segments) and all(
            want in (ONE, have) for want, have in zip(pattern, segments, strict=True)
        )
    return _positions(pattern, segments)[-1]


def _matches_prefix(pattern: Segments, pointer: Segments) -> bool:
    """Tell whether `pattern` matches `pointer` or one of its beginnings."""
    return not pattern or _matches((*pattern, ANY), pointer)


def _begins_with(pattern: Segments, pointer: Segments) -> bool:
    """Tell whether something that `pattern` matches begins with `pointer`."""
    return any(_positions(pattern, pointer))


def _positions(pattern: Segments, segments: Segments) -> list[bool]:
    """Return, for each beginning of `pattern`, whether it can match all of `segments`."""
    reached = [True] + [False] * len(pattern)
    _close(pattern, reached)
    for segment in segments:
        following = [False] * len(reached)
        for at, want in enumerate(pattern):
            if reached[at] and want == ANY:
                following[at] = True
            elif reached[at] and want in (ONE, segment):
                following[at + 1] = True
        _close(pattern, following)
        reached = following
    return reached


def _close(pattern: Segments, reached: list[bool]) -> None:
    """Let every `**` that is reached stand for nothing."""
    for at, want in enumerate(pattern):
        if reached[at] and want == ANY:
            reached[at + 1] = True


def _includes(ours: Segments, theirs: Segments) -> bool:
    """Tell whether everything that `theirs` matches, `ours` matches too.

    Walks `theirs` and keeps the set of places in `ours`, as bits, where a reader of the same segments can be. Each
    wildcard of theirs reads a segment that neither pattern names: whatever takes that one takes every other. The walk
    is bounded, and two patterns too entangled for it are said not to include each other, which only narrows a right.
    """
    if ours == theirs:
        return True
    reader = _Reader.of(ours)
    todo = [(0, reader.start)]
    seen = set(todo)
    while todo:
        if len(seen) > _MAX_INCLUSION_STEPS:
            return False
        place, places = todo.pop()
        if place == len(theirs):
            if not places & reader.end:
                return False
            continue
        want = theirs[place]
        after = reader.read(places, None if want in {ONE, ANY} else want)
        following = [(place, after), (place + 1, places)] if want == ANY else [(place + 1, after)]
        for state in following:
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return True


@dataclass(frozen=True, slots=True)
class _Reader:
    """Where one pattern can be after some segments: bit n is set when its first n parts are matched."""

    start: int
    end: int
    any_segment: int
    one_segment: int
    literals: dict[str, int]

    @classmethod
    def of(cls, pattern: Segments) -> "_Reader":
        masks: dict[str, int] = {}
        for at, part in enumerate(pattern):
            masks[part] = masks.get(part, 0) | 1 << at
        any_segment = masks.pop(ANY, 0)
        one_segment = masks.pop(ONE, 0)
        return cls(_skip(1, any_segment), 1 << len(pattern), any_segment, one_segment, masks)

    def read(self, places: int, segment: str | None) -> int:
        """Return the places after one more segment; None is a segment that the pattern does not name."""
        taking = self.one_segment | (self.literals.get(segment, 0) if segment is not None else 0)
        return _skip((places & taking) << 1 | places & self.any_segment, self.any_segment)


def _skip(places: int, any_segment: int) -> int:
    """Let every `**` that is reached stand for nothing."""
    while (further := places | (places & any_segment) << 1) != places:
        places = further
    return places
