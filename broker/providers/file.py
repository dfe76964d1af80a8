"""Secrets out of mounted files, below declared roots only."""

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from broker.errors import (
    FetchError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.finding import Finding, Severity
from broker.key_file import unreadable
from broker.providers.base import ProviderTools
from broker.providers.beneath import Opener, open_beneath, open_root
from broker.reference import Source
from broker.secret import Encoding, Reading, SecretDocument, SecretValue

_CHUNK: Final = 65_536
_TRIES: Final = 2
# Enough to show how a volume is mounted; each file is gated again when it is read.
_EXAMINED_FILES: Final = 1000
# While a volume is swapped, a file may be gone for a moment; only a second look makes it missing.
_PASSING: Final = frozenset({errno.ENOENT, errno.EAGAIN, errno.ESTALE})

_Result = TypeVar("_Result")


class RootKind(StrEnum):
    """Who wrote the files of a root, and so which modes they may have."""

    PRIVATE = "private"
    KUBERNETES = "kubernetes"
    WORLD_READABLE = "world_readable"


class FileEncoding(StrEnum):
    """What the files of a root hold."""

    AUTO = "auto"
    TEXT = "text"


class RootSettings(BaseModel):
    """One directory whose files agents may ask for."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    path: Path = Field(description="Absolute path of the directory.")
    kind: RootKind = Field(
        default=RootKind.PRIVATE,
        description="`private`: 0600 or 0400. `kubernetes`: also group-readable for our fsGroup, and 0644. "
        "`world_readable`: also 0444, as Docker mounts `/run/secrets`.",
    )
    encoding: FileEncoding = Field(
        default=FileEncoding.AUTO,
        description="`auto`: text when it is UTF-8, else answered in base64. `text`: anything but UTF-8 is refused.",
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
            SecretMissingError: There is no such file, or nothing in it.
            SecretUnusableError: It is no regular file, too large, not of its root's encoding, or open to others.
            SourceUnavailableError: Its root is not there, the broker may not read it, or the file system fails.

        """
        root = self._root_of(source)
        return await self._in_thread(lambda: self._read(root, source.path))

    async def ping(self) -> None:
        """Return when every root is there.

        Raises:
            SourceUnavailableError: One is not.

        """
        await self._in_thread(self._look_at_roots)

    async def aclose(self) -> None:
        """End the threads; one that hangs in the kernel is left to it."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        try:
            running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RuntimeError:
            message = "the broker is stopping"
            raise SourceUnavailableError(message) from None
        return await running

    def _look_at_roots(self) -> None:
        for root in self._settings.roots:
            os.close(_open_root(root))

    def _root_of(self, source: Source) -> RootSettings:
        parts = Path(source.path).parts
        below = [root for root in self._settings.roots if parts[: len(root.path.parts)] == root.path.parts]
        found = max(below, key=lambda root: len(root.path.parts), default=None)
        if found is None or len(parts) == len(found.path.parts):
            message = "this file is below no directory of providers.file.roots"
            raise UpstreamDeniedError(message)
        return found

    def _read(self, root: RootSettings, path: str) -> Reading:
        for left in reversed(range(_TRIES)):
            try:
                found = self._attempt(root, path)
            except OSError as error:
                if left and error.errno in _PASSING:
                    continue
                raise _refusal(error) from None
            if found is not None:
                return self._reading(root, *found)
        message = "the file changed while it was read, twice"
        raise SourceUnavailableError(message, retry_after=1.0)

    def _attempt(self, root: RootSettings, path: str) -> tuple[bytes, os.stat_result] | None:
        """Return the bytes with the file's status, or None when it changed meanwhile."""
        directory = _open_root(root)
        try:
            descriptor = self._open(directory, str(Path(path).relative_to(root.path)), gate_directory)
        finally:
            os.close(directory)
        try:
            before = os.fstat(descriptor)
            gate_file(root.kind, before, path=path)
            data = self._read_bounded(descriptor)
            return (data, before) if _same(before, os.fstat(descriptor)) else None
        finally:
            os.close(descriptor)

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

    def _reading(self, root: RootSettings, data: bytes, status: os.stat_result) -> Reading:
        is_text = SecretValue.from_bytes(data).encoding is Encoding.TEXT
        if root.encoding is FileEncoding.TEXT and not is_text:
            message = "the file is not UTF-8, and its root is declared to hold text"
            raise SecretUnusableError(message)
        if self._settings.trim_newline and is_text and data.endswith(b"\n"):
            data = data[:-1].removesuffix(b"\r")
        if not data:
            message = "the file is empty"
            raise SecretMissingError(message, part=MissingPart.VALUE)
        return Reading(document=SecretDocument.of_bytes(data), version=_version(status))


def gate_file(kind: RootKind, status: os.stat_result, *, path: str) -> None:
    """Refuse a file that others could have written, or could read where they should not.

    Raises:
        SecretUnusableError: Its type, its names, its owner or its mode; says what to run.

    """
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
    if mode & ~_allowed(kind, status):
        message = f"mode {mode:04o} is open to others; run: chmod 600 {path} (or declare the kind of its root)"
        raise SecretUnusableError(message)


def gate_directory(status: os.stat_result) -> None:
    """Refuse a directory in which others could put a file of their own in the place of ours.

    Raises:
        SecretUnusableError: They could; says what to run.

    """
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode)
        message = f"mode {mode:04o}: others may write in a directory above this file; run: chmod go-w on it"
        raise SecretUnusableError(message)


def examine_files(settings: FileSettings) -> Iterator[Finding]:
    """Find roots that are not there, and files in them that would be refused. Blocks."""
    for root in settings.roots:
        try:
            descriptor = _open_root(root)
        except SourceUnavailableError as error:
            why, _, fix = error.detail.removeprefix(f"{root.path}: ").partition("; ")
            yield Finding(code="root_missing", where=str(root.path), why=why, fix=fix)
            continue
        try:
            gate_directory(os.fstat(descriptor))
        except SecretUnusableError as error:
            why, _, fix = error.detail.partition("; ")
            yield Finding(code="root_open", where=str(root.path), why=why, fix=fix)
        finally:
            os.close(descriptor)
        yield from _refused_files(root)


def _refused_files(root: RootSettings) -> Iterator[Finding]:
    for path in islice(sorted(root.path.rglob("*")), _EXAMINED_FILES):
        # Kubernetes keeps its generations in directories that begin with two dots; links lead there.
        if path.name.startswith("..") or path.parent.name.startswith(".."):
            continue
        try:
            status = path.stat()
            if not stat.S_ISDIR(status.st_mode):
                gate_file(root.kind, status, path=str(path))
        except SecretUnusableError as error:
            why, _, fix = error.detail.partition("; ")
            yield Finding(
                code="file_refused",
                where=str(path),
                why=why,
                fix=fix or "replace it by a file of its own",
                severity=Severity.WARNING,
            )
        except OSError as error:
            yield replace(unreadable(path, error), severity=Severity.WARNING)


def _allowed(kind: RootKind, status: os.stat_result) -> int:
    """Return the mode bits that a file of this kind of root may have; writing by others is never one."""
    match kind:
        case RootKind.PRIVATE:
            return 0o700
        case RootKind.KUBERNETES if status.st_mode & stat.S_IROTH:
            # A secret volume without fsGroup is 0644.
            return 0o744
        case RootKind.KUBERNETES:
            # With fsGroup the kubelet, which is root, makes 0440 out of 0400, for a group of ours.
            ours = status.st_uid == 0 and status.st_gid in {os.getegid(), *os.getgroups()}
            return 0o740 if ours else 0o700
        case RootKind.WORLD_READABLE:
            return 0o744


def _open_root(root: RootSettings) -> int:
    try:
        return open_root(str(root.path))
    except OSError:
        # Not "missing": a volume that is not mounted says nothing about what is in it.
        message = f"{root.path}: no such directory, or out of the broker's reach; is its volume mounted?"
        raise SourceUnavailableError(message) from None


def _version(status: os.stat_result) -> str | None:
    """Return when the file was changed, to the nanosecond (RFC 3339); None for a time that is no date."""
    seconds, rest = divmod(status.st_mtime_ns, 10**9)
    try:
        return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
    except (OverflowError, ValueError, OSError):
        return None


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)


def _refusal(error: OSError) -> FetchError:
    match error.errno:
        case errno.EXDEV | errno.ELOOP:
            return UpstreamDeniedError("this path leads outside the root, or in a circle")
        case errno.ENOENT | errno.ENOTDIR | errno.ENAMETOOLONG:
            return SecretMissingError("there is no such file", part=MissingPart.PATH)
        case errno.ENXIO | errno.EISDIR:
            return SecretUnusableError("this is no regular file")
        case errno.EACCES:
            return SourceUnavailableError("the broker's user may not read this file; look at its owner and its mode")
        case _:
            return SourceUnavailableError("the file system can't give this file now")
