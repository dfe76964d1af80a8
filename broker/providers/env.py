"""Secrets out of the broker's declared environment: named variables, and `.env` files of mode 0600."""

import asyncio
import os
import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from broker.errors import (
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SettingsInvalidError,
    UpstreamDeniedError,
)
from broker.key_file import read_private
from broker.providers.base import ProviderTools
from broker.providers.dotenv import read_dotenv
from broker.reference import Source
from broker.secret import Reading, SecretDocument

_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,127}\Z")
# What steers the broker itself, or every program that it might start, is never a secret of an agent.
_RESERVED: Final = re.compile(
    r"(LD_.*|PATH|PYTHON.*|HOME|LOGFLUX_(CONFIG|LOG_LEVEL|VERBOSE|MOCK_MODE|SECURITY_HARDENED|PRIVATE_KEY_FILE)|LOGFLUX_.*__.*)\Z"
)


def _declarable(name: str) -> str:
    if _NAME.match(name) is None:
        message = "a variable's name has upper-case letters, digits and _"
        raise ValueError(message)
    if _RESERVED.match(name) is not None:
        message = "this variable steers the broker or its runtime and can't be handed out"
        raise ValueError(message)
    return name


class EnvSettings(BaseModel):
    """Variables that agents may ask for; nothing else of the environment is ever in reach."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    names: tuple[Annotated[str, AfterValidator(_declarable)], ...] = Field(
        description="Names that are declared; a name that is not here is denied."
    )
    env_files: tuple[Path, ...] = Field(
        default=(), description="Files of NAME=value lines, mode 0600 or 0400, read again when they change."
    )
    allow_empty: bool = Field(
        default=False, description="Whether an empty variable is a value; else it counts as missing."
    )


class EnvProvider:
    """Answer declared names, from a snapshot of the environment and from the files as they stand now."""

    def __init__(self, *, settings: EnvSettings, tools: ProviderTools) -> None:
        """Take the declared names out of the process's environment, so that no child inherits them.

        Raises:
            SettingsInvalidError: A file can't be used, or a name is set in two places.

        """
        self._settings = settings
        self._limit = tools.max_value_bytes
        self._declared = frozenset(settings.names)
        self._snapshot = {name: os.environb[name.encode()] for name in self._declared if name.encode() in os.environb}
        self._files: dict[Path, tuple[tuple[int, int, int], dict[str, bytes]]] = {}
        self._values()
        for name in self._snapshot:
            del os.environ[name]

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
            SecretMissingError: It is declared and not set.
            SecretUnusableError: It is larger than a value may be.

        """
        self.check(source)
        try:
            values = await asyncio.to_thread(self._values) if self._settings.env_files else self._snapshot
        except SettingsInvalidError as error:
            raise SecretUnusableError(error.detail) from None
        value = values.get(source.path)
        if value is None or (not value and not self._settings.allow_empty):
            message = "this variable is declared and not set"
            raise SecretMissingError(message, part=MissingPart.VALUE)
        if len(value) > self._limit:
            message = f"the value is larger than {self._limit} bytes"
            raise SecretUnusableError(message)
        return Reading(document=SecretDocument.of_bytes(value))

    async def ping(self) -> None:
        """Return: an environment is always there."""

    async def aclose(self) -> None:
        """Hold nothing open."""

    def _values(self) -> dict[str, bytes]:
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

    def _read(self, file: Path) -> dict[str, bytes]:
        """Return the variables of `file`, parsed again only when it is another file than before."""
        try:
            status = file.stat()
        except OSError as error:
            message = f"{file}: {error.strerror}"
            raise SettingsInvalidError(message) from None
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        known = self._files.get(file)
        if known is None or known[0] != stamp:
            known = self._files[file] = (stamp, read_dotenv(read_private(file), where=str(file)))
        return known[1]
