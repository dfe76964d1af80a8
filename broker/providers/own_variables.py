"""Variables that hold credentials of the broker itself, such as a proxy's password; no agent ever gets them."""

import os
from collections.abc import Sequence
from pathlib import Path

from broker.errors import SettingsInvalidError, SourceUnavailableError
from broker.key_file import read_private
from broker.providers.dotenv import read_dotenv
from broker.secret import SecretValue


class OwnVariables:
    """Answer the names that are declared for this, and no others."""

    def __init__(self, *, names: Sequence[str] = (), files: Sequence[Path] = ()) -> None:
        """Take a snapshot of the process's environment; `files` are read at each use. Changes nothing."""
        self._names = frozenset(names)
        self._files = tuple(files)
        found = {name: os.environb.get(name.encode()) for name in names}
        self._snapshot = {name: SecretValue.from_bytes(value) for name, value in found.items() if value is not None}

    @property
    def files(self) -> Sequence[Path]:
        """Return the files whose change may change a variable."""
        return self._files

    def declares(self, name: str) -> bool:
        """Tell whether `name` is declared."""
        return name in self._names

    def read(self, name: str) -> SecretValue:
        """Return the variable as it stands now. Blocks.

        Raises:
            SourceUnavailableError: It is not declared, not set, set in two places, or a file can't be used.

        """
        if not self.declares(name):
            message = f"{name} is not declared in providers.env.own_names"
            raise SourceUnavailableError(message)
        found = [self._snapshot[name]] if name in self._snapshot else []
        for file in self._files:
            try:
                variables = read_dotenv(read_private(file), where=str(file))
            except SettingsInvalidError:
                # Its name and its fault are for the readiness of the provider that has these files.
                message = f"{name} can't be read: a file of providers.env.env_files can't be used as it stands"
                raise SourceUnavailableError(message) from None
            if name in variables:
                found.append(variables[name])
        if len(found) != 1 or not found[0].size:
            state = "is set in two places; take one away" if len(found) > 1 else "is not set, or empty"
            message = f"{name} {state}"
            raise SourceUnavailableError(message)
        return found[0]
