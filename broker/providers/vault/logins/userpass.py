"""Name and password, for development only."""

from typing import Any, Final

from broker.logs import EventLogger
from broker.providers.vault.logins.method import Credential, Grant, read_secret
from broker.providers.vault.logins.settings import UserpassSettings

_LOG: Final = EventLogger("broker.providers.vault")


class UserpassLogin:
    """Log in with the password in a file."""

    follows_file = False

    def __init__(self, *, settings: UserpassSettings) -> None:
        """Keep the settings, and warn."""
        self._settings = settings
        _LOG.warning("unsafe_setting", setting="providers.vault.auth.unsafe_userpass", detail="for development only")

    def read(self) -> Credential:
        """Return the password, as `LoginMethod.read`."""
        return Credential.of(read_secret(self._settings.password_file, "unsafe_userpass.password_file"))

    async def log_in(self, client: Any, credential: Credential) -> Grant:  # noqa: ANN401  hvac has no types.
        """Log in, as `LoginMethod.log_in`."""
        (password,) = credential.reveal()
        settings = self._settings
        answer = await client.auth.userpass.login(
            username=settings.username, password=password, mount_point=settings.mount
        )
        return Grant.of(answer)
