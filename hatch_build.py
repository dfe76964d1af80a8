"""Put the commit into the wheel, so that a broker can tell at run time what it was built from."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):
    """Add `broker/commit.txt`; without one the broker says "unknown"."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Take `SOURCE_COMMIT`, which an image's build gives, or ask git about this very tree."""
        commit = os.environ.get("SOURCE_COMMIT") or commit_of(Path(self.root))
        # An editable installation shows the tree as it is at the moment, which has no commit.
        if commit and version != "editable":
            self.file = tempfile.NamedTemporaryFile("w", suffix=".txt")  # noqa: SIM115  It goes when the hook goes.
            self.file.write(f"{commit}\n")
            self.file.flush()
            build_data["force_include"][self.file.name] = "broker/commit.txt"


def commit_of(root: Path) -> str | None:
    """Return the commit of the work tree `root`, with `-dirty` when it holds changes; None when git can't tell."""
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return f"{commit}-dirty" if _git(root, "status", "--porcelain") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)  # noqa: S603, S607  Fixed words; whichever git is first on the path.
    return done.stdout.strip()
