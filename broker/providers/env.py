"""Secrets out of the broker's declared environment: named variables, and `.env` files of mode 0600."""

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from broker.errors import (
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SettingsInvalidError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.finding import Finding, FoundError, Severity
from broker.key_file import read_private
from broker.providers.base import ProviderTools
from broker.providers.dotenv import read_dotenv
from broker.providers.own_variables import OwnVariables
from broker.reference import Source
from broker.secret import Reading, SecretDocument, SecretValue

_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,127}\Z")
# What steers the broker itself, or every program that it might start, is never a secret of an agent.
_RESERVED: Final = re.compile(
    r"(LD_.*|PATH|PYTHON.*|HOME|LOGFLUX_(CONFIG|LOG_LEVEL|VERBOSE|MOCK_MODE|SECURITY_HARDENED|PRIVATE_KEY_FILE)|LOGFLUX_.*__.*)\Z"
)
# A file that is written twice within the resolution of its times looks the same, so a young one is read each time.
_SETTLED_SECONDS: Final = 2.0

Reader = Callable[[Path], bytes]


def _declarable(name: str) -> str:
    if _NAME.match(name) is None:
        message = "a variable's name has upper-case letters, digits and _"
        raise ValueError(message)
    if _RESERVED.match(name) is not None:
        message = "this variable steers the broker or its runtime and can't be handed out"
        raise ValueError(message)
    return name


def _absolute(file: Path) -> Path:
    if not file.is_absolute():
        message = "a .env file is named by its absolute path"
        raise ValueError(message)
    return file


class EnvSettings(BaseModel):
    """Variables that agents may ask for; nothing else of the environment is ever in reach."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    names: tuple[Annotated[str, AfterValidator(_declarable)], ...] = Field(
        default=(), description="Names that are declared; a name that is not here is denied."
    )
    own_names: tuple[Annotated[str, AfterValidator(_declarable)], ...] = Field(
        default=(),
        description="Names for credentials of the broker itself, such as `${PROXY_LOGIN}` in `providers.vault.proxy`; "
        "denied to every agent, whatever the policy says.",
    )
    env_files: tuple[Annotated[Path, AfterValidator(_absolute)], ...] = Field(
        default=(), description="Files of NAME=value lines, mode 0600 or 0400, read again when they change."
    )
    allow_empty: bool = Field(
        default=False, description="Whether an empty variable is a value; else it counts as missing."
    )

    @model_validator(mode="after")
    def _apart(self) -> "EnvSettings":
        if not self.names and not self.own_names:
            message = "declares no name; write names, or leave the section out"
            raise ValueError(message)
        both = sorted(set(self.names) & set(self.own_names))
        if both:
            message = f"{both[0]} stands in names and in own_names; agents may have it, or the broker alone"
            raise ValueError(message)
        return self


class EnvProvider:
    """Answer declared names, from a snapshot of the environment and from the files as they stand now."""

    def __init__(self, *, settings: EnvSettings, tools: ProviderTools, reader: Reader = read_private) -> None:
        """Take the declared names out of the process's environment, so that no child inherits them.

        Raises:
            SettingsInvalidError: A file can't be used, or a name is set in two places.

        """
        self._settings = settings
        self._limit = tools.max_value_bytes
        self._clock = tools.clock
        self._reader = reader
        self._declared = frozenset(settings.names)
        self._snapshot = _variables(self._declared)
        self._files: dict[Path, tuple[tuple[int, ...], dict[str, SecretValue]]] = {}
        # One thread of its own: files are read one after the other, and a hanging one holds up nothing else.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="broker-env")
        self._values()
        for name in (*self._snapshot, *settings.own_names):
            os.environ.pop(name, None)

    def check(self, source: Source) -> None:
        """Refuse a name that is not declared.

        Raises:
            UpstreamDeniedError: It is not declared.

        """
        if source.path not in self._declared:
            message = "this variable is not declared in providers.env.names"
            raise UpstreamDeniedError(message)

    async def fetch(self, source: Source) -> Reading:
        """Return the value of a declared name.

        Raises:
            UpstreamDeniedError: It is not declared.
            SecretMissingError: It is declared and not set, or empty where that is no value.
            SecretUnusableError: It is larger than a value may be.
            SourceUnavailableError: A file can't be used as it stands now.

        """
        self.check(source)
        try:
            value = (await self._current()).get(source.path)
        except SettingsInvalidError:
            # The file may be half written. Its name and its fault are for the operator: `ping` tells them.
            message = "the broker's .env files can't be used as they stand; its readiness says why"
            raise SourceUnavailableError(message, retry_after=1.0) from None
        if value is None or (not value.size and not self._settings.allow_empty):
            message = "this variable is declared and not set"
            raise SecretMissingError(message, part=MissingPart.VALUE)
        if value.size > self._limit:
            message = f"the value is larger than {self._limit} bytes"
            raise SecretUnusableError(message)
        return Reading(document=SecretDocument.of_bytes(value.reveal()))

    async def ping(self) -> None:
        """Return when the files can be used; an environment is always there.

        Raises:
            SourceUnavailableError: One can't; names it, and what to do.

        """
        try:
            await self._current()
        except SettingsInvalidError as error:
            raise SourceUnavailableError(error.detail) from None

    async def aclose(self) -> None:
        """End the thread; a second call does nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _current(self) -> Mapping[str, SecretValue]:
        if not self._settings.env_files:
            return self._snapshot
        try:
            running = asyncio.get_running_loop().run_in_executor(self._pool, self._values)
        except RuntimeError:
            message = "the broker is stopping"
            raise SourceUnavailableError(message) from None
        return await running

    def _values(self) -> dict[str, SecretValue]:
        values = dict(self._snapshot)
        for file in self._settings.env_files:
            for name, value in self._read(file).items():
                if name not in self._declared:
                    continue
                if name in values:
                    message = f"{file}: {name} is set in two places; take one away"
                    raise SettingsInvalidError(message)
                values[name] = value
        return values

    def _read(self, file: Path) -> dict[str, SecretValue]:
        """Return the variables of `file`, parsed again only when it is another file than before."""
        try:
            status = file.stat()
        except OSError as error:
            message = f"{file}: {error.strerror}"
            raise SettingsInvalidError(message) from None
        # The change time too: it tells a new mode, and a file of the same size whose own time was set back.
        stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
        known = self._files.get(file)
        young = self._clock.now() - status.st_ctime < _SETTLED_SECONDS
        if known is None or known[0] != stamp or young:
            known = self._files[file] = (stamp, read_dotenv(self._reader(file), where=str(file)))
        return known[1]


def own_variables(settings: EnvSettings) -> OwnVariables:
    """Return the variables that hold credentials of the broker itself, as they are before a provider takes them out."""
    return OwnVariables(names=settings.own_names, files=settings.env_files)


def examine_env(settings: EnvSettings) -> Iterator[Finding]:
    """Find what would be missing or refused: files, names in two places, names that nothing sets. Blocks."""
    values = {name: value.size for name, value in _variables(frozenset(settings.names)).items()}
    for file in settings.env_files:
        try:
            found = read_dotenv(read_private(file), where=str(file))
        except FoundError as error:
            yield error.finding
        except SettingsInvalidError as error:
            why = error.detail.removeprefix(f"{file}: ")
            yield Finding(code="env_file_invalid", where=str(file), why=why, fix="correct the line")
        else:
            for name in sorted(found.keys() & values.keys()):
                why = f"sets {name}, which is set elsewhere too"
                yield Finding(code="env_name_twice", where=str(file), why=why, fix="take one away")
            values |= {name: value.size for name, value in found.items()}
    for name in settings.names:
        if values.get(name) or (name in values and settings.allow_empty):
            continue
        why = f"{name} is declared and {'empty' if name in values else 'not set'}, so its references are missing"
        yield Finding(
            code="env_name_unset",
            where="providers.env.names",
            why=why,
            fix="set it in the broker's environment or in a file of env_files",
            severity=Severity.WARNING,
        )


def _variables(names: frozenset[str]) -> dict[str, SecretValue]:
    """Return the named variables of the process, each as the bytes that they are."""
    found = {name: os.environb.get(name.encode()) for name in sorted(names)}
    return {name: SecretValue.from_bytes(value) for name, value in found.items() if value is not None}
