"""Where a credential of the broker itself stands: in a file, or in a variable that is declared for that.

What leads to the store can't come from the store, so these references are of the two kinds that need none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, model_validator

from broker.errors import MalformedReferenceError, SettingsInvalidError, SourceUnavailableError
from broker.grammar import VAULT
from broker.key_file import read_private
from broker.providers.own_variables import OwnVariables
from broker.providers.vault.section import Section
from broker.reference import parse

_SUFFIX: Final = "_file"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of `providers.env.own_names`."""

    name: str

    def __str__(self) -> str:
        """Return the reference."""
        return f"${{{self.name}}}"


def _place_of(text: object) -> Path | Variable:
    message = "name the credential by a reference, ${NAME} or /abs/path; the credential itself never stands here"
    if isinstance(text, Path | Variable):
        return text
    try:
        reference = parse(str(text))
    except MalformedReferenceError:
        raise ValueError(message) from None
    source = reference.source
    if source.scheme == VAULT:
        message = "a credential that leads to the store can't come from the store; name ${NAME} or /abs/path"
        raise ValueError(message)
    if reference.pointer or reference.decode:
        message = "a credential is taken as it stands; leave out what follows its name"
        raise ValueError(message)
    return Path(source.path) if source.scheme == "file" else Variable(source.path)


Place = Annotated[Path | Variable, BeforeValidator(_place_of)]


@dataclass(frozen=True, slots=True)
class Located:
    """One credential: the setting that names it, below the section, and its place."""

    setting: str
    place: Path | Variable


class CredentialSection(Section):
    """A section whose credentials are named by a reference in NAME, or by a path in NAME_file."""

    def credential(self, name: str) -> Located | None:
        """Return what `name` or `name_file` names, None when neither is there."""
        for setting in (name, name + _SUFFIX):
            place = getattr(self, setting)
            if place is not None:
                return Located(setting, place)
        return None

    def needed(self, name: str) -> Located:
        """Return what `name` or `name_file` names, one of which the settings have asked for."""
        credential = self.credential(name)
        if credential is None:
            raise AssertionError
        return credential

    @model_validator(mode="after")
    def _one_spelling(self) -> "CredentialSection":
        fields = type(self).model_fields
        for name in fields:
            other = name + _SUFFIX
            if other in fields and getattr(self, name) is not None and getattr(self, other) is not None:
                message = f"name one of {name} and {other}"
                raise ValueError(message)
        return self


def require(section: CredentialSection, *names: str) -> None:
    """See that each credential is named.

    Raises:
        ValueError: One is not.

    """
    for name in names:
        if section.credential(name) is None:
            message = f"name {name}, by a reference, or {name}{_SUFFIX}"
            raise ValueError(message)


def variables_of(section: BaseModel, *, where: str) -> Iterator[tuple[str, Variable]]:
    """Return every variable that the section at `where` names, with its setting."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Variable):
            yield f"{where}.{name}", value
        elif isinstance(value, BaseModel):
            yield from variables_of(value, where=f"{where}.{name}")


def require_declared(section: BaseModel, own: OwnVariables, *, where: str) -> None:
    """See that every variable that the section at `where` names is declared.

    Raises:
        SettingsInvalidError: One is not.

    """
    for setting, variable in variables_of(section, where=where):
        if not own.declares(variable.name):
            message = f"{setting}: {variable.name} is not declared; add it to providers.env.own_names"
            raise SettingsInvalidError(message)


def read_place(place: Path | Variable, *, setting: str, own: OwnVariables) -> bytes:
    """Return the bytes at a place, which nobody else may read. Blocks.

    Raises:
        SourceUnavailableError: There are none, or others may read them; names `setting`, not the path.

    """
    try:
        return own.read(place.name).reveal() if isinstance(place, Variable) else read_private(place)
    except SourceUnavailableError as error:
        message = f"{setting}: {error.detail}"
        raise SourceUnavailableError(message) from None
    except SettingsInvalidError as error:
        raise SourceUnavailableError(error.detail.replace(str(place), setting)) from None
