"""The settings in force, compared with their file: the log level follows it, everything else says that it does not."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from broker.config import Settings
from broker.config_source import read_settings
from broker.errors import SettingsInvalidError
from broker.reload import Accepted, PartName, Refused

_FOLLOWS: Final = "log_level"


class SettingsFile:
    """Read the settings again, and put in force what can change while the broker runs."""

    def __init__(self, *, settings: Settings, file: Path | None, set_log_level: Callable[[str], None]) -> None:
        """Compare with `settings`, which came from `file`, or without one from the environment alone."""
        self._started_with = settings
        self._log_level: str = settings.log_level
        self._file = file
        self._set_log_level = set_log_level

    @property
    def name(self) -> PartName:
        """Return the settings'."""
        return PartName.SETTINGS

    @property
    def watched(self) -> Sequence[Path]:
        """Return the file, if there is one."""
        return [] if self._file is None else [self._file]

    def read(self) -> Sequence[Accepted | Refused]:
        """Return what the file says now, ready to be put in force, and what of it has to wait. Blocks."""
        if self._file is None:
            return []
        try:
            settings = read_settings(self._file)
        except SettingsInvalidError as error:
            return [Refused(part=PartName.SETTINGS, code=error.code, detail=error.detail)]

        def apply() -> None:
            self._log_level = settings.log_level
            self._set_log_level(settings.log_level)

        changed = tuple(differences(self._started_with, settings))
        before, after = f"{_FOLLOWS}={self._log_level}", f"{_FOLLOWS}={settings.log_level}"
        kept = tuple(name for name in changed if name != _FOLLOWS)
        return [Accepted(part=PartName.SETTINGS, apply=apply, before=before, after=after, kept=kept)]


def differences(old: Settings, new: Settings) -> Sequence[str]:
    """Return the names of the settings that differ, such as `listen.port`; values are not told."""
    one, other = leaves(old.model_dump()), leaves(new.model_dump())
    return sorted(name for name in one.keys() | other.keys() if one.get(name, ...) != other.get(name, ...))


def leaves(data: Mapping[str, Any] | BaseModel, prefix: str = "") -> dict[str, Any]:
    """Return every value that is no mapping, by its name with dots."""
    found: dict[str, Any] = {}
    for key, value in (data.model_dump() if isinstance(data, BaseModel) else data).items():
        if isinstance(value, Mapping) and value:
            found.update(leaves(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found
