"""AppRole: a role id that is a name, and a secret id that proves it."""

from typing import Any

from broker.providers.vault.logins.method import Credential, CredentialReader, Grant, Refusals
from broker.providers.vault.logins.settings import AppRoleSettings
from broker.providers.vault.logins.wrapping import WrappingToken
from broker.providers.vault.places import Located


class AppRoleLogin:
    """Log in with the secret id, or with the wrapping token that holds it."""

    follows_file = False
    refusals = Refusals.COUNTED

    def __init__(self, *, settings: AppRoleSettings, reader: CredentialReader, wrapping: WrappingToken | None) -> None:
        """Keep the settings; `wrapping` opens the secret id when it comes wrapped."""
        self._settings = settings
        self._reader = reader
        self._wrapping = wrapping

    def read(self) -> Credential:
        """Return role id and secret id, or wrapping token, as `LoginMethod.read`."""
        settings = self._settings
        role_id = settings.role_id
        if settings.role_id_file is not None:
            # A role id is a name and no secret, so its file may be readable.
            role_id = self._reader.name(Located("role_id_file", settings.role_id_file))
        secret = settings.credential("secret_id") or settings.needed("wrapped_secret_id")
        return Credential.of(str(role_id), self._reader.secret(secret))

    async def log_in(self, client: Any, credential: Credential) -> Grant:  # noqa: ANN401  hvac has no types.
        """Log in, as `LoginMethod.log_in`; a wrapping token is opened first, once in its life."""
        role_id, secret = credential.reveal()
        if self._wrapping is not None:
            secret = (await self._wrapping.open(client, credential)).reveal().decode()
        answer = await client.auth.approle.login(role_id=role_id, secret_id=secret, mount_point=self._settings.mount)
        return Grant.of(answer)
