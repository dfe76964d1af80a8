"""Control groups with a real memory limit, for tests, where this process may make one."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.cache.control_group import memory_groups
from tests.waiting import wait_until

_LIMIT = {1: "memory.limit_in_bytes", 2: "memory.max"}
_SWAP_LIMIT = {1: "memory.memsw.limit_in_bytes", 2: "memory.swap.max"}
_KILLS = {1: "memory.oom_control", 2: "memory.events"}


@dataclass(frozen=True)
class MemoryGroup:
    """A control group whose processes may have so much memory and no more."""

    version: int
    directory: Path

    @property
    def wrapper(self) -> tuple[str, ...]:
        """Return what executes a command in this group, so that its first page counts already."""
        return ("sh", "-c", f'echo $$ > {self.directory}/cgroup.procs && exec "$@"', "sh")

    @property
    def kills(self) -> int:
        """Return how many processes were killed for want of memory."""
        facts = dict(line.split() for line in (self.directory / _KILLS[self.version]).read_text().splitlines())
        return int(facts["oom_kill"])


@contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup]:
    """Make a group below this process's own that may use `limit` bytes, and remove it after its last process.

    Raises:
        OSError: This process may not.

    """
    version, parent = next(_parents())
    group = MemoryGroup(version, parent / f"logflux-broker-{secrets.token_hex(4)}")
    group.directory.mkdir()
    try:
        (group.directory / _LIMIT[version]).write_text(str(limit))
        with suppress(FileNotFoundError):
            # Otherwise what is over the limit goes into the swap, if there is any.
            (group.directory / _SWAP_LIMIT[version]).write_text(str(limit if version == 1 else 0))
        yield group
    finally:
        wait_until(lambda: _removed(group.directory))


def _parents() -> Iterator[tuple[int, Path]]:
    """Yield version and directory of the groups below which one with a limit can be made, the nearest first."""
    for version, group in memory_groups():
        with suppress(OSError):
            if version == 1 or "memory" in (group / "cgroup.subtree_control").read_text().split():
                yield version, group


def _removed(directory: Path) -> bool:
    with suppress(OSError):
        directory.rmdir()
    return not directory.exists()


def _may_limit() -> bool:
    try:
        with memory_group(2**30):
            return True
    except (OSError, StopIteration):
        return False


# With CI=true too: whether a container has a controller is not for the tests to install.
needs_memory_group = pytest.mark.skipif(
    not _may_limit(),
    reason="needs a writable memory controller (control groups), which a container, also one of a CI, may lack",
)
