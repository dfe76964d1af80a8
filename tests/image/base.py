"""The base of the image, and what stands in for it where no registry is asked.

The stand-in is Debian made by debootstrap, with the interpreter under the name that the Dockerfile uses and
slimmed as the real base is: no documentation, no package lists, no bytecode of the standard library. It is
tagged as the name in `FROM`, so that the Dockerfile builds on it unchanged.
"""

import re
import shutil
from pathlib import Path
from typing import Final

from tests.image.commands import run

RELEASE: Final = "bookworm"
_PACKAGES: Final = "python3,python3-venv,ca-certificates"
_NOT_IN_A_SLIM_BASE: Final = (
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt/lists",
    "var/log",
)


def base_name(dockerfile: Path) -> str:
    """Return the base that the Dockerfile names by default."""
    found = re.search(r"^ARG BASE=(\S+)$", dockerfile.read_text(), re.MULTILINE)
    assert found, f"{dockerfile}: no line ARG BASE=..."
    return found[1]


def make_stand_in(archive: Path) -> None:
    """Write the stand-in's files as a tar archive, unless they are there from an earlier run."""
    if archive.exists():
        return
    archive.parent.mkdir(exist_ok=True)
    root = archive.parent / "stand-in"
    shutil.rmtree(root, ignore_errors=True)
    try:
        run(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", RELEASE, root], seconds=600)
        _slim(root)
        unfinished = archive.with_suffix(".part")
        run(["tar", "--create", "--file", unfinished, "--directory", root, "--one-file-system", "."])
        unfinished.rename(archive)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _slim(root: Path) -> None:
    for name in _NOT_IN_A_SLIM_BASE:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
    for bytecode in list(root.glob("usr/lib/python3*/**/__pycache__")):
        shutil.rmtree(bytecode)
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3")
