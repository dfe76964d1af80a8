"""Which implementation stands behind each protocol: providers, and the two stores. Nothing else picks one."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from broker.config import Settings
from broker.config_source import validate_section
from broker.leases.record import LeaseRecord
from broker.providers.base import Provider, ProviderTools
from broker.providers.own_variables import OwnVariables
from broker.providers.registry import PROVIDERS, entry_for
from broker.store.schema import STATE, schema_version
from broker.store.state import SqliteStateStore, read_leases
from broker.store.trail import SqliteTrailStore
from broker.store.trail_reader import SqliteTrailReader

# Of a provider whose settings say nothing of it.
_CONNECTIONS: Final = 32


def build_providers(settings: Settings, tools: ProviderTools) -> dict[str, Provider]:
    """Return a provider for each section of `settings.providers`, with `tools` and the variables that are its own.

    Raises:
        SettingsInvalidError: A section names no provider, does not fit its model, or names an undeclared variable.

    """
    sections = _sections(settings)
    # Before any provider is built, because one takes its variables out of the environment.
    tools = replace(tools, own=_own_variables(sections))
    return {scheme: entry_for(scheme).build(section, tools) for scheme, section in sections.items()}


def provider_connections(settings: Settings) -> dict[str, int]:
    """Return how many connections each provider may have open at once.

    Raises:
        SettingsInvalidError: As `build_providers`.

    """
    return {
        scheme: getattr(section, "max_connections", _CONNECTIONS) for scheme, section in _sections(settings).items()
    }


def _sections(settings: Settings) -> dict[str, BaseModel]:
    return {
        scheme: validate_section(entry_for(scheme).settings, section, where=f"providers.{scheme}")
        for scheme, section in settings.providers.items()
    }


def _own_variables(sections: Mapping[str, BaseModel]) -> OwnVariables:
    """Return the variables that hold credentials of the broker itself, as one of the providers' `sections` has them."""
    for scheme, section in sections.items():
        make = entry_for(scheme).own
        if make is not None:
            return make(section)
    return OwnVariables()


def provider_settings() -> dict[str, type[BaseModel]]:
    """Return the settings model of each provider, by its scheme."""
    return {entry.scheme: entry.settings for entry in PROVIDERS}


def trail_store(state_directory: Path) -> SqliteTrailStore:
    """Return the store of the audit trail; nothing is opened yet."""
    return SqliteTrailStore(state_directory / "audit.db")


def state_store(state_directory: Path) -> SqliteStateStore:
    """Return the store of what must outlive a restart; nothing is opened yet."""
    return SqliteStateStore(state_directory / "state.db")


def open_trail_reader(database: Path) -> SqliteTrailReader:
    """Return a reader of the trail in `database`, beside a broker that may be writing it."""
    return SqliteTrailReader(database)


def open_leases(database: Path) -> Iterator[LeaseRecord]:
    """Return the leases in `database`, beside a broker that may be writing it. Raises: SettingsInvalidError."""
    return read_leases(database)


def known_schemas() -> tuple[int, int]:
    """Return the versions of the audit database and of the state that this broker writes."""
    return schema_version(), schema_version(STATE)
