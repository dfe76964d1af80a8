"""The table of providers: a scheme, the model of its settings, and what makes it."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, cast

from broker.errors import SettingsInvalidError
from broker.providers.base import ProviderEntry
from broker.providers.env import EnvProvider, EnvSettings, examine_env, own_variables
from broker.providers.file.examination import examine_files
from broker.providers.file.provider import FileProvider
from broker.providers.file.settings import FileSettings
from broker.providers.vault.health.examine import examine_vault, spends_credential
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.settings import VaultSettings

PROVIDERS: Final[tuple[ProviderEntry, ...]] = (
    ProviderEntry(
        scheme="env",
        settings=EnvSettings,
        build=lambda settings, tools: EnvProvider(settings=cast("EnvSettings", settings), tools=tools),
        examine=lambda settings, _tools: examine_env(cast("EnvSettings", settings)),
        own=lambda settings: own_variables(cast("EnvSettings", settings)),
    ),
    ProviderEntry(
        scheme="file",
        settings=FileSettings,
        build=lambda settings, tools: FileProvider(settings=cast("FileSettings", settings), tools=tools),
        examine=lambda settings, _tools: examine_files(cast("FileSettings", settings)),
    ),
    ProviderEntry(
        scheme="vault",
        settings=VaultSettings,
        build=lambda settings, tools: VaultProvider(settings=cast("VaultSettings", settings), tools=tools),
        examine=lambda settings, tools: examine_vault(cast("VaultSettings", settings), tools),
        spends_credential=lambda settings: spends_credential(cast("VaultSettings", settings)),
        reach=lambda provider, path: cast("VaultProvider", provider).reach(path),
    ),
)


def entry_for(scheme: str, *, table: Sequence[ProviderEntry] = PROVIDERS) -> ProviderEntry:
    """Return the one line of `table` for `scheme`.

    Raises:
        SettingsInvalidError: There is none, or a scheme stands in the table twice.

    """
    counted = Counter(entry.scheme for entry in table)
    twice = sorted(name for name, count in counted.items() if count > 1)
    if twice:
        message = f"the table of providers has {twice[0]} twice"
        raise SettingsInvalidError(message)
    for entry in table:
        if entry.scheme == scheme:
            return entry
    message = f"providers.{scheme}: no such provider; there are {', '.join(sorted(counted))}"
    raise SettingsInvalidError(message)
