"""The table of providers: a scheme, the model of its settings, and what makes it."""

from typing import Final, cast

from broker.providers.base import ProviderEntry
from broker.providers.env import EnvProvider, EnvSettings
from broker.providers.file import FileProvider, FileSettings
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.settings import VaultSettings

PROVIDERS: Final = (
    ProviderEntry(
        scheme="env",
        settings=EnvSettings,
        build=lambda settings, tools: EnvProvider(settings=cast("EnvSettings", settings), tools=tools),
    ),
    ProviderEntry(
        scheme="file",
        settings=FileSettings,
        build=lambda settings, tools: FileProvider(settings=cast("FileSettings", settings), tools=tools),
    ),
    ProviderEntry(
        scheme="vault",
        settings=VaultSettings,
        build=lambda settings, tools: VaultProvider(settings=cast("VaultSettings", settings), tools=tools),
    ),
)
