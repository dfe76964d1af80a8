"""Find the few patterns that can speak about a reference among all that a policy has."""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from broker.pattern import Pattern
from broker.policy.trie import SegmentTrie
from broker.reference import Reference
from broker.segments import ANY

T = TypeVar("T")
# So many patterns of one path are looked at one by one; with more, their fields are indexed too.
_FEW: Final = 8


class PatternIndex(Generic[T]):
    """Items by the scheme, the path and the field of their patterns.

    It narrows down and decides nothing: whether a pattern matches is for the pattern itself to say, so that
    this index can only be too generous, and there is one place that knows what a pattern means.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._paths: SegmentTrie[_Fields[T]] = SegmentTrie()

    def add(self, pattern: Pattern, item: T) -> None:
        """Add `item` under `pattern`."""
        path = (pattern.scheme, *pattern.segments)
        fields = self._paths.get(path)
        if fields is None:
            fields = _Fields()
            self._paths.put(path, fields)
        fields.add(pattern, item)

    def covering(self, reference: Reference) -> Iterator[tuple[Pattern, T]]:
        """Yield every pattern that may cover `reference`, with its item."""
        for fields in self._paths.find((reference.source.scheme, *reference.source.segments)):
            yield from fields.covering(reference.pointer)

    def touching(self, reference: Reference) -> Iterator[tuple[Pattern, T]]:
        """Yield every pattern that may touch `reference`, with its item.

        For a whole secret these are the patterns of all its fields, so this costs as much as it has to answer.
        """
        for fields in self._paths.find((reference.source.scheme, *reference.source.segments)):
            yield from fields.touching(reference.pointer)


class _Fields(Generic[T]):
    """The patterns of one path, by their fields."""

    __slots__ = ("_few", "_many")

    def __init__(self) -> None:
        self._few: list[tuple[Pattern, T]] = []
        self._many: SegmentTrie[list[tuple[Pattern, T]]] | None = None

    def add(self, pattern: Pattern, item: T) -> None:
        self._few.append((pattern, item))
        if self._many is not None or len(self._few) > _FEW:
            self._many = self._many or SegmentTrie()
            for entry in self._few:
                # A pattern of a field speaks about its parts too, as if it ended with `**`.
                field = (*entry[0].pointer, ANY)
                here = self._many.get(field)
                if here is None:
                    self._many.put(field, [entry])
                else:
                    here.append(entry)
            self._few.clear()

    def covering(self, pointer: tuple[str, ...]) -> Iterator[tuple[Pattern, T]]:
        yield from self._few
        if self._many is not None:
            for here in self._many.find(pointer):
                yield from here

    def touching(self, pointer: tuple[str, ...]) -> Iterator[tuple[Pattern, T]]:
        yield from self._few
        if self._many is not None:
            for here in self._many.find_below(pointer):
                yield from here
