"""Name and password, for development only."""

from typing import Any, Final

from broker.logs import EventLogger
from broker.providers.vault.logins.method import Credential, CredentialReader, Grant, Refusals
from broker.providers.vault.logins.settings import UserpassSettings

_LOG: Final = EventLogger("broker.providers.vault")


class UserpassLogin:
    """Log in with a password."""

    follows_file = False
    refusals = Refusals.COUNTED

    def __init__(self, *, settings: UserpassSettings, reader: CredentialReader) -> None:
        """Keep the settings, and warn."""
        self._settings = settings
        self._reader = reader
        _LOG.warning("unsafe_setting", setting="providers.vault.auth.unsafe_userpass", detail="for development only")

    def read(self) -> Credential:
        """Return the password, as `LoginMethod.read`."""
        return Credential.of(self._reader.secret(self._settings.needed("password")))

    async def log_in(self, client: Any, credential: Credential) -> Grant:  # noqa: ANN401  hvac has no types.
        """Log in, as `LoginMethod.log_in`."""
        (password,) = credential.reveal()
        settings = self._settings
        answer = await client.auth.userpass.login(
            username=settings.username, password=password, mount_point=settings.mount
        )
        return Grant.of(answer)
