"""Small disks for tests, where this process may mount them."""

import os
import shutil
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
needs_loop = pytest.mark.skipif(
    not (may_mount() and Path("/dev/loop-control").exists()),
    reason="a disk that fails needs CAP_SYS_ADMIN and /dev/loop-control; run as root where loop devices are",
)
# A gate that skips its own checks is none: with CI=true the absence is a failure and not a skip.
needs_mkfs = pytest.mark.skipif(
    shutil.which("mkfs.ext4") is None and os.environ.get("CI") != "true",
    reason="needs mkfs.ext4; to run it: sudo apt-get install e2fsprogs",
)


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


def ext4(image: Path) -> Path:
    """Make a file that can be mounted as a disk with ext4, which has errors as a real disk does."""
    image.touch()
    os.truncate(image, 16 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    return image


@contextmanager
def mounted(image: Path, state: Path) -> Iterator[str]:
    """Put the state directory `state` on the ext4 of `image`; yield the name of its device."""
    state.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, state], check=True)
    try:
        (state / "lost+found").chmod(0o700)
        state.chmod(0o700)
        found = subprocess.run(["findmnt", "-no", "SOURCE", state], check=True, capture_output=True, text=True)
        yield Path(found.stdout.strip()).name
    finally:
        subprocess.run(["umount", state], check=True)
