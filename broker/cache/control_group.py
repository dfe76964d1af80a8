"""The control groups of this process, both versions (cgroups(7)), and the memory that they let it have.

The limit that counts is the smallest one of the own group and its ancestors, as far as they can be seen; what is
compared with it is the use of the group that has it. Use is the working set, as kubelet counts it: everything
charged to the group but the file cache that the kernel takes back first.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

_SYSTEM: Final = Path("/")
# Version 1 has no word for "no limit", only a number that no machine has.
_NO_LIMIT: Final = 2**60
# How the kernel writes a space, a tab, a newline and a backslash in a path of mountinfo: `\040`.
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_MOUNT_FIELDS: Final = 5


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """How many bytes the processes of a control group may use, and how many they use."""

    limit: int
    used: int


@dataclass(frozen=True, slots=True)
class _Mount:
    """One mount of a tree of control groups: which version, and which group of the tree is seen where."""

    version: int
    top: PurePosixPath
    place: Path


def memory_use(root: Path = _SYSTEM) -> MemoryUse | None:
    """Return the use of what limits this process's memory most, None when nothing does. Blocks.

    Args:
        root: Where `proc` and the mounted trees are.

    """
    uses = [_USE_OF[version](group) for version, group in memory_groups(root)]
    # A group of version 1 tells the limits of its ancestors as well: among those with the same one, the fullest has it.
    return min(filter(None, uses), key=lambda use: (use.limit, -use.used), default=None)


def memory_groups(root: Path = _SYSTEM) -> Iterator[tuple[int, Path]]:
    """Yield version and directory of the group of this process, and then of its ancestors, that may limit memory.

    Args:
        root: Where `proc` and the mounted trees are.

    """
    own = _own_groups(_text(root / "proc/self/cgroup"))
    for mount in _mounts(_text(root / "proc/self/mountinfo"), root):
        for group in _visible_groups(mount, own.get(mount.version)):
            yield mount.version, group


def _own_groups(text: str) -> dict[int, PurePosixPath]:
    """Return the path of this process's group by version, for the trees that can have a memory controller."""
    own: dict[int, PurePosixPath] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            own[1] = PurePosixPath(path)
        elif number == "0" and not controllers:
            own[2] = PurePosixPath(path)
    return own


def _mounts(text: str, root: Path) -> Iterator[_Mount]:
    """Yield the mounted trees that can have a memory controller, out of `mountinfo` (proc(5))."""
    for line in text.splitlines():
        fields, _, file_system = (part.split() for part in line.partition(" - "))
        if len(fields) < _MOUNT_FIELDS or not file_system:
            continue
        kind, options = file_system[0], file_system[-1].split(",")
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options):
            top, place = (_ESCAPED.sub(lambda found: chr(int(found[1], 8)), path) for path in fields[3:_MOUNT_FIELDS])
            yield _Mount(2 if kind == "cgroup2" else 1, PurePosixPath(top), root / place.lstrip("/"))


def _visible_groups(mount: _Mount, own: PurePosixPath | None) -> Iterator[Path]:
    """Yield the directories of the group `own` and of its ancestors, as far as `mount` shows them; none for None.

    Both paths are seen from the root of the process's namespace of control groups, and what lies above that begins
    with `/..`. A container's tree begins at its own group, even where the paths were written for another place.
    """
    if own is None:
        return
    below: tuple[str, ...] = ()
    if own.parts[: len(mount.top.parts)] == mount.top.parts:
        below = own.parts[len(mount.top.parts) :]
    if ".." in below:
        # The namespace begins below this group or beside it, so nothing that the mount shows holds this process.
        return
    group = mount.place.joinpath(*below)
    yield group
    for _ in below:
        group = group.parent
        yield group


def _use_in_version_1(group: Path) -> MemoryUse | None:
    # The kernel's own figure of the smallest limit up to its root, which a container can't look at otherwise.
    facts = _facts(group)
    return _use(
        limits=[facts.get("hierarchical_memory_limit", "")],
        charged=_text(group / "memory.usage_in_bytes"),
        reclaimable=facts.get("total_inactive_file", ""),
    )


def _use_in_version_2(group: Path) -> MemoryUse | None:
    # Above memory.high nobody is killed, but everybody is made to wait.
    return _use(
        limits=[_text(group / "memory.max"), _text(group / "memory.high")],
        charged=_text(group / "memory.current"),
        reclaimable=_facts(group).get("inactive_file", ""),
    )


_USE_OF: Final = {1: _use_in_version_1, 2: _use_in_version_2}


def _use(*, limits: list[str], charged: str, reclaimable: str) -> MemoryUse | None:
    """Return what these texts of the kernel say; None without a limit, and for what is no number."""
    bounds = [int(limit) for limit in limits if limit.strip().isdecimal()]
    if not bounds or min(bounds) >= _NO_LIMIT or not charged.strip().isdecimal() or not reclaimable.isdecimal():
        return None
    return MemoryUse(limit=min(bounds), used=max(0, int(charged) - int(reclaimable)))


def _facts(group: Path) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in _text(group / "memory.stat").splitlines() if " " in line)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
