"""What would be refused below the roots, found before an agent asks."""

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from broker.errors import SecretUnusableError, SourceUnavailableError
from broker.finding import Finding, Severity
from broker.key_file import unreadable
from broker.providers.file.gates import gate_directory, gate_file, gate_way, open_declared
from broker.providers.file.settings import FileSettings, RootSettings

# Enough to show how a volume is mounted; each file is gated again when it is read.
_EXAMINED_FILES: Final = 1000


def examine_files(settings: FileSettings) -> Iterator[Finding]:
    """Find roots that are not there, and files in them that would be refused. Blocks."""
    for root in settings.roots:
        try:
            descriptor = open_declared(root)
        except SourceUnavailableError as error:
            why, _, fix = error.detail.removeprefix(f"{root.path}: ").partition("; ")
            yield Finding(code="root_missing", where=str(root.path), why=why, fix=fix)
            continue
        try:
            gate_way(root)
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
