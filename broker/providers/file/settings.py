"""Which directories agents may ask for files of."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator


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
