"""Small disks for tests, where this process may mount them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def may_mount() -> bool:
    """Tell whether this process may mount, by its capabilities (21 is CAP_SYS_ADMIN); root in a container may not."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(status["CapEff"], 16) >> 21 & 1)


needs_mount = pytest.mark.skipif(not may_mount(), reason="mounting a small disk needs CAP_SYS_ADMIN; run as root")


@contextmanager
def small_disk(directory: Path, *options: str, size: str = "2m") -> Iterator[Path]:
    """Make `directory`, on a disk of its own that lives in memory."""
    directory.mkdir(mode=0o700)
    given = ",".join([f"size={size}", "mode=0700", *options])
    subprocess.run(["mount", "-t", "tmpfs", "-o", given, "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)
