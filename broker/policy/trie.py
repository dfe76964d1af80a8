"""Find what matches a path of segments in as many steps as the path has, however many entries there are.

Segments may be `*`, which stands for any one, and `**`, which stands for any number of them, none included.
"""

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from broker.segments import ANY, ONE

T = TypeVar("T")


class _Node(Generic[T]):
    __slots__ = ("any", "literals", "loops", "one", "value")

    def __init__(self, value: T, *, loops: bool = False) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.one: _Node[T] | None = None
        self.any: _Node[T] | None = None
        # A node that was reached by `**` stays where it is for any further segment.
        self.loops = loops
        self.value = value


class SegmentTrie(Generic[T]):
    """One value of type `T` for each distinct pattern of segments."""

    def __init__(self) -> None:
        """Start empty."""
        self._root: _Node[T | None] = _Node(None)

    def get(self, pattern: Sequence[str]) -> T | None:
        """Return the value of exactly this pattern."""
        return self._node(pattern).value

    def put(self, pattern: Sequence[str], value: T) -> None:
        """Set the value of exactly this pattern."""
        self._node(pattern).value = value

    def find(self, segments: Sequence[str]) -> Iterator[T]:
        """Yield the value of every pattern that matches `segments`, each once."""
        for node in self._reached(segments):
            if node.value is not None:
                yield node.value

    def find_below(self, segments: Sequence[str]) -> Iterator[T]:
        """Yield the value of every pattern that matches `segments` or something that begins with them, each once."""
        pending = list(self._reached(segments))
        seen: set[int] = set()
        while pending:
            node = pending.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if node.value is not None:
                yield node.value
            pending.extend(node.literals.values())
            pending.extend(child for child in (node.one, node.any) if child is not None)

    def _reached(self, segments: Sequence[str]) -> "list[_Node[T | None]]":
        active = self._closed([self._root])
        for segment in segments:
            if not active:
                break
            following: list[_Node[T | None]] = []
            for node in active:
                if node.loops:
                    following.append(node)
                if node.one is not None:
                    following.append(node.one)
                if (literal := node.literals.get(segment)) is not None:
                    following.append(literal)
            active = self._closed(following)
        return active

    def _node(self, pattern: Sequence[str]) -> _Node[T | None]:
        node = self._root
        for segment in pattern:
            if segment == ANY:
                node.any = node.any or _Node(None, loops=True)
                node = node.any
            elif segment == ONE:
                node.one = node.one or _Node(None)
                node = node.one
            else:
                node = node.literals.setdefault(segment, _Node(None))
        return node

    @staticmethod
    def _closed(nodes: list[_Node[T | None]]) -> list[_Node[T | None]]:
        """Return `nodes` and what is reached from them without a segment, each once, so that no step repeats."""
        if not nodes or (len(nodes) == 1 and nodes[0].any is None):
            return nodes
        seen: dict[int, _Node[T | None]] = {}
        pending = nodes
        while pending:
            node = pending.pop()
            if id(node) not in seen:
                seen[id(node)] = node
                if node.any is not None:
                    pending.append(node.any)
        return list(seen.values())
