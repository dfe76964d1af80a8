"""Secrets out of mounted files, below declared roots only."""

import asyncio
import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from broker.errors import (
    FetchError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.providers.base import ProviderTools
from broker.providers.beneath import Opener, open_beneath, open_root
from broker.reference import Source
from broker.secret import Encoding, Reading, SecretDocument, SecretValue

_CHUNK: Final = 65_536
_TRIES: Final = 2


class RootKind(StrEnum):
    """Who wrote the files of a root, and so which modes they may have."""

    PRIVATE = "private"
    KUBERNETES = "kubernetes"
    WORLD_READABLE = "world_readable"


class RootSettings(BaseModel):
    """One directory whose files agents may ask for."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    path: Path = Field(description="Absolute path of the directory.")
    kind: RootKind = Field(
        default=RootKind.PRIVATE,
        description="`private`: 0600 or 0400. `kubernetes`: also group-readable for our fsGroup, and 0644. "
        "`world_readable`: also 0444, as Docker mounts `/run/secrets`.",
    )

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if not path.is_absolute() or ".." in path.parts or path == Path("/"):
            message = "a root is an absolute path without .., and not / itself"
            raise ValueError(message)
        return path


class FileSettings(BaseModel):
    """Mounted files that agents may ask for."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    roots: Annotated[tuple[RootSettings, ...], Field(min_length=1)] = Field(
        description="Directories that are declared; a file below none of them is denied."
    )
    trim_newline: bool = Field(default=True, description="Whether one line end at the end of a text is left out.")
    max_threads: Annotated[int, Field(ge=1, le=64)] = Field(default=8, description="Files that are read at once.")


class FileProvider:
    """Read regular files below the roots, whole and consistently."""

    def __init__(self, *, settings: FileSettings, tools: ProviderTools, opener: Opener = open_beneath) -> None:
        """Keep the roots; none of them needs to be there yet."""
        self._settings = settings
        self._limit = tools.max_value_bytes
        self._open = opener
        # A pool of its own: a hanging network file system must not use up the threads of everything else.
        self._pool = ThreadPoolExecutor(settings.max_threads, thread_name_prefix="broker-file")

    def check(self, source: Source) -> None:
        """Refuse a path below no root.

        Raises:
            UpstreamDeniedError: It is below none.

        """
        self._root_of(source)

    async def fetch(self, source: Source) -> Reading:
        """Return the file's bytes, and when it was last changed as its version.

        Raises:
            UpstreamDeniedError: It is below no root, or a link leads out of its root.
            SecretMissingError: There is no such file.
            SecretUnusableError: It is no regular file, too large, or open to others.
            SourceUnavailableError: The broker may not read it, or the file system fails.

        """
        root = self._root_of(source)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, root, source.path)

    async def ping(self) -> None:
        """Return when every root is there.

        Raises:
            SourceUnavailableError: One is not.

        """
        loop = asyncio.get_running_loop()
        for root in self._settings.roots:
            if not await loop.run_in_executor(self._pool, root.path.is_dir):
                message = f"{root.path}: no such directory; is its volume mounted?"
                raise SourceUnavailableError(message)

    async def aclose(self) -> None:
        """End the threads; one that hangs in the kernel is left to it."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _root_of(self, source: Source) -> RootSettings:
        parts = Path(source.path).parts
        below = [root for root in self._settings.roots if parts[: len(root.path.parts)] == root.path.parts]
        found = max(below, key=lambda root: len(root.path.parts), default=None)
        if found is None or len(parts) == len(found.path.parts):
            message = "this file is below no directory of providers.file.roots"
            raise UpstreamDeniedError(message)
        return found

    def _read(self, root: RootSettings, path: str) -> Reading:
        inside = str(Path(path).relative_to(root.path))
        try:
            for _ in range(_TRIES):
                directory = _root_descriptor(root)
                try:
                    _gate_directory(os.fstat(directory))
                    descriptor = self._open(directory, inside)
                finally:
                    os.close(directory)
                with os.fdopen(descriptor, "rb", buffering=0):
                    before = os.fstat(descriptor)
                    self._gate(root, before)
                    data = self._read_bounded(descriptor)
                    if _same(before, os.fstat(descriptor)):
                        return self._reading(data, before)
        except OSError as error:
            raise _refusal(error) from None
        message = "the file changed while it was read, twice"
        raise SourceUnavailableError(message, retry_after=1.0)

    def _read_bounded(self, descriptor: int) -> bytes:
        """Return everything, counting: the size that a file claims proves nothing."""
        chunks = []
        left = self._limit + 1
        while left and (chunk := os.read(descriptor, min(_CHUNK, left))):
            chunks.append(chunk)
            left -= len(chunk)
        if not left:
            message = f"the file is larger than {self._limit} bytes"
            raise SecretUnusableError(message)
        return b"".join(chunks)

    def _reading(self, data: bytes, status: os.stat_result) -> Reading:
        if self._settings.trim_newline and SecretValue.from_bytes(data).encoding is Encoding.TEXT:
            data = data.removesuffix(b"\n").removesuffix(b"\r") if data.endswith(b"\n") else data
        if not data:
            message = "the file is empty"
            raise SecretMissingError(message, part=MissingPart.VALUE)
        changed = datetime.fromtimestamp(status.st_mtime_ns // 10**9, tz=UTC)
        return Reading(document=SecretDocument.of_bytes(data), version=changed.strftime("%Y-%m-%dT%H:%M:%SZ"))

    @staticmethod
    def _gate(root: RootSettings, status: os.stat_result) -> None:
        """Refuse a file that others could have written, or could read where they should not."""
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            message = "this is no regular file"
            raise SecretUnusableError(message)
        if status.st_nlink > 1:
            message = "the file has a second name (a hard link), which may lie outside the root"
            raise SecretUnusableError(message)
        if status.st_uid not in {0, os.geteuid()}:
            message = f"the file belongs to user {status.st_uid}, neither to the broker's nor to root"
            raise SecretUnusableError(message)
        if mode & ~_allowed(root.kind, status):
            message = f"mode {mode:04o} is open to others; run: chmod 600 on it, or declare the kind of its root"
            raise SecretUnusableError(message)


def _allowed(kind: RootKind, status: os.stat_result) -> int:
    """Return the mode bits that a file of this kind of root may have; writing by others is never one."""
    ours = status.st_gid in {os.getegid(), *os.getgroups()}
    match kind:
        case RootKind.PRIVATE:
            return 0o700
        case RootKind.KUBERNETES:
            # With fsGroup the kubelet makes 0440 out of 0400, for our group; without it a secret volume is 0644.
            return 0o744 if ours or status.st_mode & 0o004 else 0o700
        case RootKind.WORLD_READABLE:
            return 0o744


def _root_descriptor(root: RootSettings) -> int:
    """Return a descriptor of the root; a volume that is not mounted says nothing of the files that it holds."""
    try:
        return open_root(str(root.path))
    except OSError:
        message = f"{root.path}: no such directory; is its volume mounted?"
        raise SourceUnavailableError(message) from None


def _gate_directory(status: os.stat_result) -> None:
    """Refuse a root in which others could put a file of their own in the place of ours."""
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        message = "others may write in the root of this file; run: chmod go-w on that directory"
        raise SecretUnusableError(message)


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)


def _refusal(error: OSError) -> FetchError:
    match error.errno:
        case errno.EXDEV | errno.ELOOP:
            return UpstreamDeniedError("a link of this path leads out of its root")
        case errno.ENOENT | errno.ENOTDIR:
            return SecretMissingError("there is no such file", part=MissingPart.PATH)
        case errno.ENXIO | errno.EISDIR:
            return SecretUnusableError("this is no regular file")
        case errno.EACCES:
            return SourceUnavailableError("the broker's user may not read this file; look at its owner and its mode")
        case _:
            return SourceUnavailableError("the file system can't give this file now")
