"""Secrets out of mounted files, below declared roots only."""

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from broker.errors import (
    FetchError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.limits.byte_budget import UNCOUNTED
from broker.providers.base import ProviderTools
from broker.providers.file.beneath import Opener, open_beneath
from broker.providers.file.gates import gate_directory, gate_file, gate_way, open_declared
from broker.providers.file.settings import FileEncoding, FileSettings, RootSettings
from broker.reference import Source
from broker.secret import Encoding, Reading, SecretDocument, SecretValue

_CHUNK: Final = 65_536
_TRIES: Final = 2
# While a volume is swapped, a file may be gone for a moment; only a second look makes it missing.
_PASSING: Final = frozenset({errno.ENOENT, errno.EAGAIN, errno.ESTALE})

# Time for a large file to wait until others have been handed over.
_ROOM_SECONDS: Final = 8.0

_Result = TypeVar("_Result")


class _LargeFileError(Exception):
    """There is more in the file than is read without room for it."""


class FileProvider:
    """Read regular files below the roots, whole and consistently."""

    def __init__(self, *, settings: FileSettings, tools: ProviderTools, opener: Opener = open_beneath) -> None:
        """Keep the roots; none of them needs to be there yet."""
        self._settings = settings
        self._limit = tools.max_value_bytes
        self._room = tools.answers
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
            InFlightLimitError: It is large, and others are in the way for too long.

        """
        root = self._root_of(source)
        try:
            return await self._in_thread(lambda: self._read(root, source.path, most=min(UNCOUNTED, self._limit)))
        except _LargeFileError:
            # Threads read files faster than the loop takes them over, so what is large is read one by one.
            permit = await self._room.take(None, min(self._limit, self._room.most), seconds=_ROOM_SECONDS)
        try:
            return await self._in_thread(lambda: self._read(root, source.path, most=self._limit))
        finally:
            permit.give_back()

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
            os.close(open_declared(root))

    def _root_of(self, source: Source) -> RootSettings:
        parts = Path(source.path).parts
        below = [root for root in self._settings.roots if parts[: len(root.path.parts)] == root.path.parts]
        found = max(below, key=lambda root: len(root.path.parts), default=None)
        if found is None or len(parts) == len(found.path.parts):
            message = "this file is below no directory of providers.file.roots"
            raise UpstreamDeniedError(message)
        return found

    def _read(self, root: RootSettings, path: str, *, most: int) -> Reading:
        for left in reversed(range(_TRIES)):
            try:
                found = self._attempt(root, path, most)
            except OSError as error:
                if left and error.errno in _PASSING:
                    continue
                raise _refusal(error) from None
            if found is not None:
                return self._reading(root, *found)
        message = "the file changed while it was read, twice"
        raise SourceUnavailableError(message, retry_after=1.0)

    def _attempt(self, root: RootSettings, path: str, most: int) -> tuple[bytes, os.stat_result] | None:
        """Return the bytes with the file's status, or None when it changed meanwhile."""
        directory = open_declared(root)
        try:
            gate_way(root)
            descriptor = self._open(directory, str(Path(path).relative_to(root.path)), gate_directory)
        finally:
            os.close(directory)
        try:
            before = os.fstat(descriptor)
            gate_file(root.kind, before, path=path)
            data = self._read_bounded(descriptor, most)
            return (data, before) if _same(before, os.fstat(descriptor)) else None
        finally:
            os.close(descriptor)

    def _read_bounded(self, descriptor: int, most: int) -> bytes:
        """Return everything, counting: the size that a file claims proves nothing."""
        chunks = []
        left = most + 1
        while left and (chunk := os.read(descriptor, min(_CHUNK, left))):
            chunks.append(chunk)
            left -= len(chunk)
        if not left and most < self._limit:
            raise _LargeFileError
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
