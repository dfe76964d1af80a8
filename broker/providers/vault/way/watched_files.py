"""Files that somebody else may replace under way: certificates, keys, passwords."""

from collections.abc import Iterable
from pathlib import Path


class WatchedFiles:
    """Tell whether any of the files has changed since the last look; a swapped symlink counts."""

    def __init__(self, files: Iterable[Path | None]) -> None:
        """Take the files that are named, and look at none."""
        self._files = tuple(file for file in files if file is not None)
        self._seen: tuple[tuple[int, ...], ...] | None = None

    def changed(self) -> bool:
        """Return whether the files differ from those of the last call; true at the first. Blocks."""
        seen = tuple(_stamp(file) for file in self._files)
        differ = seen != self._seen
        self._seen = seen
        return differ


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        status = file.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ino, status.st_dev, status.st_size
