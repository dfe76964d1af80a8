"""How much may be watched: by one watch, and by all watches of one identity together."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from broker.errors import ThrottledError
from broker.reference import Source

_RETRY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchLimits:
    """What may be watched.

    Attributes:
        max_references: References in one watch.
        max_watches: Watches of one identity at once.
        max_sources: Different secrets, files and variables in all of them: each may cost a look of its own, again
            and again, and who may read a whole folder could name any number.

    """

    max_references: int
    max_watches: int
    max_sources: int


@dataclass(slots=True)
class _Held:
    watches: int = 0
    sources: Counter[Source] = field(default_factory=Counter)


class Watchers:
    """Count what each identity watches."""

    def __init__(self, limits: WatchLimits) -> None:
        """Begin with nobody."""
        self._limits = limits
        self._held: dict[str, _Held] = {}

    def enter(self, name: str, sources: Collection[Source]) -> None:
        """Count a watch of `sources`. Raises: ThrottledError: The identity has as much as one may have."""
        held = self._held.get(name) or _Held()
        if held.watches >= self._limits.max_watches:
            message = f"this identity has {self._limits.max_watches} watches already; one agent needs one"
            raise ThrottledError(message, retry_after=_RETRY_SECONDS, is_news=False)
        new = sum(source not in held.sources for source in sources)
        if len(held.sources) + new > self._limits.max_sources:
            message = f"all watches of this identity name {self._limits.max_sources} different secrets at most"
            raise ThrottledError(message, retry_after=_RETRY_SECONDS, is_news=False)
        held.watches += 1
        # One each: a counter takes the values of a mapping for numbers.
        held.sources.update(iter(sources))
        self._held[name] = held

    def leave(self, name: str, sources: Collection[Source]) -> None:
        """Count a watch of `sources` no more."""
        held = self._held[name]
        held.watches -= 1
        held.sources.subtract(iter(sources))
        for source in sources:
            if not held.sources[source]:
                del held.sources[source]
        if not held.watches:
            del self._held[name]
