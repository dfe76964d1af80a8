"""Find the few patterns that can speak about a reference among all that a policy has."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from broker.pattern import Pattern
from broker.policy.trie import SegmentTrie
from broker.reference import Reference

T = TypeVar("T")


class PatternIndex(Generic[T]):
    """Items by the scheme and the path of their patterns.

    It narrows down and decides nothing: whether a pattern matches is for the pattern itself to say, so that
    this index can only be too generous, and there is one place that knows what a pattern means.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._paths: SegmentTrie[list[tuple[Pattern, T]]] = SegmentTrie()

    def add(self, pattern: Pattern, item: T) -> None:
        """Add `item` under `pattern`."""
        path = (pattern.scheme, *pattern.segments)
        here = self._paths.get(path)
        if here is None:
            self._paths.put(path, [(pattern, item)])
        else:
            here.append((pattern, item))

    def candidates(self, reference: Reference) -> Iterator[tuple[Pattern, T]]:
        """Yield every pattern that may match `reference`, with its item."""
        for here in self._paths.find((reference.source.scheme, *reference.source.segments)):
            yield from here
