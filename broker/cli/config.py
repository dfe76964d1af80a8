"""`broker config show`: the settings as `broker serve` would take them, each with what set it."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretBytes, SecretStr

from broker.assembly.implementations import provider_settings
from broker.config_source import Origin, OriginKind, SettingsSource

# Raised when a field is removed or means something else; new fields don't count.
JSON_SCHEMA: Final = 1

_EPILOG: Final = """\
No setting holds a secret: a credential is named by the file that holds it, and no such file is read.

exit status:
  0  shown
  2  the command line is wrong
  3  the settings can't be used; broker check-config says more

examples:
  broker config show --config broker.yaml
  broker config show --config broker.yaml --json
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """One setting: its name with dots, its value as JSON has it, and what set it."""

    name: str
    value: Any
    origin: Origin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = _EPILOG
    commands = parser.add_subparsers(dest="config_command", metavar="COMMAND", required=True)
    show = commands.add_parser("show", help="show the settings in effect, and what set each of them")
    show.add_argument("--config", type=Path, metavar="FILE", help="settings file; LOGFLUX_CONFIG otherwise")
    show.add_argument("--json", action="store_true", help="print the settings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print every setting.

    Raises:
        SettingsFaultsError: The settings can't be used.

    """
    settings = list(effective(SettingsSource(arguments.config)))
    if arguments.json:
        shown = [
            {"name": one.name, "value": one.value, "origin": one.origin.kind, "where": one.origin.where}
            for one in settings
        ]
        print(json.dumps({"schema": JSON_SCHEMA, "settings": shown}, indent=2))
        return 0
    rows = [(one.name, json.dumps(one.value, ensure_ascii=True), _told(one.origin)) for one in settings]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")
    return 0


def effective(source: SettingsSource) -> Iterator[Shown]:
    """Return every setting, those of the providers with their defaults too.

    Raises:
        SettingsFaultsError: The settings can't be used.

    """
    settings = source.settings()
    if source.file is not None:
        yield Shown("config", str(source.file), source.file_origin)
    models = provider_settings()
    for name in type(settings).model_fields:
        if name != "providers":
            yield from _shown(source, getattr(settings, name), (name,))
    for scheme, section in settings.providers.items():
        path = ("providers", scheme)
        # A section without a provider is a fault that `broker check-config` tells.
        model = models.get(scheme)
        yield from _shown(source, section if model is None else source.section(model, section, path=path), path)


def _shown(source: SettingsSource, value: object, path: tuple[str, ...]) -> Iterator[Shown]:
    match value:
        case BaseModel():
            for name in type(value).model_fields:
                yield from _shown(source, getattr(value, name), (*path, name))
        case dict() if value:
            for name, inner in value.items():
                yield from _shown(source, inner, (*path, str(name)))
        case _:
            yield Shown(".".join(path), _plain(value), source.origin(path))


def _plain(value: object) -> object:
    """Return `value` as JSON has it; what is marked as secret is never shown."""
    match value:
        case SecretStr() | SecretBytes():
            return "(secret)"
        case BaseModel():
            return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
        case Mapping():
            return {str(name): _plain(inner) for name, inner in value.items()}
        case str() | bool() | int() | float() | None:
            return str(value) if type(value) not in {bool, int, float, type(None)} else value
        case Sequence() | set() | frozenset():
            return [_plain(inner) for inner in value]
        case _:
            return str(value)


def _told(origin: Origin) -> str:
    return origin.kind.value if origin.kind is OriginKind.DEFAULT else f"{origin.kind} ({origin.where})"
