"""Segments of a path or a field, matched against a pattern of them. Pure.

In a pattern `*` stands for any one segment and `**` for any number of them, none included.
"""

from dataclasses import dataclass
from typing import Final

ONE: Final = "*"
ANY: Final = "**"
# Two patterns as people write them need a few hundred; the bound keeps the time of the oddest ones small.
_MAX_INCLUSION_STEPS: Final = 20_000

Segments = tuple[str, ...]


def matches(pattern: Segments, segments: Segments) -> bool:
    """Tell whether `pattern` matches all of `segments`, in at most length times length steps."""
    if ANY not in pattern:
        return len(pattern) == len(segments) and all(
            want in (ONE, have) for want, have in zip(pattern, segments, strict=True)
        )
    return _positions(pattern, segments)[-1]


def matches_prefix(pattern: Segments, pointer: Segments) -> bool:
    """Tell whether `pattern` matches `pointer` or one of its beginnings."""
    return not pattern or matches((*pattern, ANY), pointer)


def begins_with(pattern: Segments, pointer: Segments) -> bool:
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


def includes(ours: Segments, theirs: Segments) -> bool:
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
