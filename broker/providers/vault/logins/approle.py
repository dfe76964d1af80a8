"""AppRole: a role id that is a name, and a secret id that proves it."""

from typing import Any

from broker.providers.vault.logins.method import Credential, Grant, read_secret, read_word
from broker.providers.vault.logins.settings import AppRoleSettings
from broker.providers.vault.logins.wrapping import WrappingToken


class AppRoleLogin:
    """Log in with the secret id in a file, or in the wrapping token of a file."""

    follows_file = False

    def __init__(self, *, settings: AppRoleSettings, wrapping: WrappingToken | None) -> None:
        """Keep the settings; `wrapping` opens the secret id when it comes wrapped."""
        self._settings = settings
        self._wrapping = wrapping

    def read(self) -> Credential:
        """Return role id and secret id, or wrapping token, as `LoginMethod.read`."""
        settings = self._settings
        role_id = settings.role_id
        if settings.role_id_file is not None:
            # A role id is a name and no secret, so its file may be readable.
            role_id = read_word(settings.role_id_file, "approle.role_id_file")
        if settings.secret_id_file is not None:
            secret = read_secret(settings.secret_id_file, "approle.secret_id_file")
        elif settings.wrapped_secret_id_file is not None:
            secret = read_secret(settings.wrapped_secret_id_file, "approle.wrapped_secret_id_file")
        else:
            # The settings have refused this.
            raise AssertionError
        return Credential.of(str(role_id), secret)

    async def log_in(self, client: Any, credential: Credential) -> Grant:  # noqa: ANN401  hvac has no types.
        """Log in, as `LoginMethod.log_in`; a wrapping token is opened first, once in its life."""
        role_id, secret = credential.reveal()
        if self._wrapping is not None:
            secret = (await self._wrapping.open(client, credential)).reveal().decode()
        answer = await client.auth.approle.login(role_id=role_id, secret_id=secret, mount_point=self._settings.mount)
        return Grant.of(answer)
