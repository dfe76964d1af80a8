"""The memory that the platform lets this broker have, and the cache that gives way before it is reached.

A process that reaches the limit of its control group is killed, with every request in flight. What the cache
holds can be read again, so it goes first.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from broker.logs import EventLogger

_LOG: Final = EventLogger("broker.memory")
_SYSTEM: Final = Path("/")
# From here on the cache gives way, a half of it at each look.
_HIGH: Final = 0.85
_LOOK_SECONDS: Final = 1.0
# Version 1 of control groups has no word for "no limit", only a number that no machine has.
_NO_LIMIT: Final = 2**60


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """How many bytes the processes of a control group may have, and have. File caches do not count."""

    limit: int
    used: int

    @property
    def is_high(self) -> bool:
        """Tell whether it is time to give way."""
        return self.used > _HIGH * self.limit


class GivesWay(Protocol):
    """Holds what can be read again."""

    def give_way(self) -> int:
        """Let go of half of it, the least used first; return how many bytes that were."""
        ...


def memory_use(root: Path = _SYSTEM) -> MemoryUse | None:
    """Return the use of this process's control group (cgroups(7), both versions), None when nothing limits it. Blocks.

    Args:
        root: Where `proc` and `sys` are.

    """
    groups = _text(root / "proc/self/cgroup").splitlines()
    below = next((line.partition("::")[2].strip("/") for line in groups if line.startswith("0::")), "")
    tree = root / "sys/fs/cgroup"
    # In a container the tree begins at its own group, whatever the path says.
    for group, limit, used in (
        (tree / below, "memory.max", "anon"),
        (tree, "memory.max", "anon"),
        (tree / "memory", "memory.limit_in_bytes", "total_rss"),
    ):
        bound = _text(group / limit).strip()
        facts = dict(line.split(" ", 1) for line in _text(group / "memory.stat").splitlines() if " " in line)
        if bound.isdecimal() and int(bound) < _NO_LIMIT and facts.get(used, "").isdecimal():
            return MemoryUse(limit=int(bound), used=int(facts[used]))
    return None


async def keep_below_limit(cache: GivesWay, *, root: Path = _SYSTEM, look_seconds: float = _LOOK_SECONDS) -> None:
    """Let `cache` give way whenever the memory in use comes near its limit, for ever."""
    while True:
        use = await asyncio.to_thread(memory_use, root)
        if use is not None and use.is_high and (freed := cache.give_way()):
            _LOG.warning("memory_high", limit_bytes=use.limit, used_bytes=use.used, cache_bytes_freed=freed)
        await asyncio.sleep(look_seconds)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
