"""Where the settings come from: a strict YAML file, and the environment, which wins over it.

Each setting remembers its origin, and each fault is told by its place in the file and never by its content.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from broker import strict_yaml
from broker.config import Settings
from broker.config_fault import fault, unknown_variables
from broker.errors import DocumentInvalidError, SettingsInvalidError
from broker.finding import Finding

FILE_VARIABLE: Final = "LOGFLUX_CONFIG"
_PREFIX: Final = "LOGFLUX_"
_UNNAMED: Final = Finding(
    code="settings_unreadable",
    where="settings",
    why="no file is named",
    fix=f"name one with --config or {FILE_VARIABLE}, or set each of these by its variable",
)
_ModelT = TypeVar("_ModelT", bound=BaseModel)


class OriginKind(StrEnum):
    """What set a setting."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Origin:
    """What set a setting, and where: `file:line`, the variable's name, the flag; empty for a default."""

    kind: OriginKind
    where: str = ""


class SettingsFaultsError(SettingsInvalidError):
    """The settings can't be used; `findings` has every fault."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        """Keep the findings, which make one line."""
        super().__init__(". ".join(finding.text for finding in findings))
        self.findings = tuple(findings)


class SettingsSource:
    """One settings file, read once, and what the environment sets beside it."""

    def __init__(self, file: Path | None, *, environment: Mapping[str, str] | None = None) -> None:
        """Read `file`, else the one that `LOGFLUX_CONFIG` names, else none.

        Args:
            file: The settings file.
            environment: Where `LOGFLUX_CONFIG` is looked for; single settings always come from the process's own.

        Raises:
            SettingsFaultsError: The file can't be read, or is no strict YAML.

        """
        self._environment = os.environ if environment is None else environment
        self.file = settings_file(file, environment=self._environment)
        by_flag = Origin(OriginKind.FLAG, "--config")
        self.file_origin = by_flag if file else Origin(OriginKind.ENVIRONMENT, FILE_VARIABLE)
        self._document = None if self.file is None else _read_file(self.file)

    def settings(self) -> Settings:
        """Return the settings.

        Raises:
            SettingsFaultsError: One is unknown, missing or wrong.

        """
        data = self._document.data if self._document else {}
        try:
            return Settings(**data) if isinstance(data, dict) else Settings()
        except ValidationError as error:
            unnamed = [] if self.file else [_UNNAMED]
            raise SettingsFaultsError([*unnamed, *self._faults(error, model=Settings)]) from None
        except SettingsError as error:
            # Its text names the field and no value.
            field = re.search(r'field "(\w+)"', str(error))
            variable = self._variable((field[1],)) if field else "the environment"
            why = "a variable that sets a whole section holds JSON, and this one does not"
            finding = Finding(code="setting_invalid", where=variable, why=why, fix="write JSON, or set its parts")
            raise SettingsFaultsError([finding]) from None

    def section(self, model: type[_ModelT], section: Mapping[str, Any], *, path: tuple[str, ...]) -> _ModelT:
        """Return the settings of one provider, which stand at `path`.

        Raises:
            SettingsFaultsError: One is unknown, missing or wrong.

        """
        try:
            return model.model_validate(dict(section))
        except ValidationError as error:
            raise SettingsFaultsError(self._faults(error, model=model, path=path)) from None

    def origin(self, path: tuple[str, ...]) -> Origin:
        """Return what set the setting at `path`."""
        if _has(_set_by_environment(), path):
            return Origin(OriginKind.ENVIRONMENT, self._variable(path))
        if self._document and _has(self._document.data, path):
            return Origin(OriginKind.FILE, f"{self.file}:{self._document.key_place(path)[0]}")
        return Origin(OriginKind.DEFAULT)

    def _variable(self, path: tuple[str, ...]) -> str:
        """Return the variable that set `path`: of its own name, or of a section above with JSON in it."""
        names = {name.upper(): name for name in self._environment}
        for length in range(len(path), 0, -1):
            wanted = (_PREFIX + "__".join(path[:length])).upper()
            if wanted in names:
                return names[wanted]
        return _PREFIX + "__".join(path).upper()

    def unknown_variables(self) -> Sequence[Finding]:
        """Return a warning for each variable that looks like a setting and sets nothing."""
        beside = {name: text for name, text in self._environment.items() if name != FILE_VARIABLE}
        return list(unknown_variables(beside, Settings, prefix=_PREFIX))

    def _faults(self, error: ValidationError, *, model: type[BaseModel], path: tuple[str, ...] = ()) -> list[Finding]:
        return [
            fault(kind, message, where=self._place((*path, *place)), place=place, model=model)
            for kind, message, place in _errors(error)
        ]

    def _place(self, path: tuple[str, ...]) -> str:
        name = ".".join(path) or "settings"
        origin = self.origin(path)
        if origin.kind is OriginKind.DEFAULT:
            return f"{self.file}: {name}" if self.file else name
        return f"{origin.where}: {name}"


def read_settings(file: Path | None, *, environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of `file` (`LOGFLUX_CONFIG` when it is None), completed from the environment.

    Raises:
        SettingsFaultsError: The file can't be read, or a setting is unknown, missing or wrong.

    """
    return SettingsSource(file, environment=environment).settings()


def settings_file(file: Path | None, *, environment: Mapping[str, str] | None = None) -> Path | None:
    """Return the file that the settings come from: `file`, else what `LOGFLUX_CONFIG` names, else None."""
    named = (os.environ if environment is None else environment).get(FILE_VARIABLE)
    return file or (Path(named) if named else None)


def validate_section(model: type[_ModelT], section: Mapping[str, Any], *, where: str) -> _ModelT:
    """Return `section`, which stands at `where`, as `model`.

    Raises:
        SettingsFaultsError: It does not fit.

    """
    try:
        return model.model_validate(dict(section))
    except ValidationError as error:
        findings = [
            fault(kind, message, where=".".join((where, *place)), place=place, model=model)
            for kind, message, place in _errors(error)
        ]
        raise SettingsFaultsError(findings) from None


def _errors(error: ValidationError) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return type, message and place of each error, unknown names first: what is missing may stand under one."""
    errors = error.errors(include_input=False, include_url=False, include_context=False)
    errors.sort(key=lambda each: each["type"] != "extra_forbidden")
    return [(each["type"], each["msg"], tuple(str(part) for part in each["loc"])) for each in errors]


def _read_file(file: Path) -> strict_yaml.Document:
    try:
        text = file.read_bytes()
    except OSError as error:
        fix = f"name the settings file with --config or {FILE_VARIABLE}"
        raise _unreadable(file, error.strerror or "can't be read", fix=fix) from None
    try:
        document = strict_yaml.read(text, what="the settings")
    except DocumentInvalidError as error:
        raise _unreadable(file, f"line {error.line}, column {error.column}: {error.detail}") from None
    if not isinstance(document.data, dict):
        raise _unreadable(file, "the settings are a mapping of names to values")
    return document


def _unreadable(file: Path, why: str, *, fix: str = "see deploy/config/broker.yaml") -> SettingsFaultsError:
    return SettingsFaultsError([Finding(code="settings_unreadable", where=str(file), why=why, fix=fix)])


def _set_by_environment() -> Mapping[str, Any]:
    try:
        return EnvSettingsSource(Settings)()
    except ValueError:
        # A variable that should hold JSON and does not; reading the settings has said so already.
        return {}


def _has(data: object, path: tuple[str, ...]) -> bool:
    for step in path:
        if isinstance(data, Mapping) and step in data:
            data = data[step]
        elif isinstance(data, list) and step.isdecimal() and int(step) < len(data):
            data = data[int(step)]
        else:
            return False
    return True
