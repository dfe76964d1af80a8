"""A JWT that somebody else signs and keeps fresh: an identity provider, or Kubernetes."""

from typing import Any

from broker.providers.vault.logins.method import Credential, CredentialReader, Grant, Refusals
from broker.providers.vault.logins.settings import JwtSettings, KubernetesSettings
from broker.providers.vault.places import Located


class JwtLogin:
    """Log in with a JWT."""

    follows_file = False
    refusals = Refusals.OPEN

    def __init__(self, *, settings: JwtSettings, reader: CredentialReader) -> None:
        """Keep the settings."""
        self._settings = settings
        self._reader = reader

    def read(self) -> Credential:
        """Return the JWT, as `LoginMethod.read`."""
        return Credential.of(self._reader.secret(self._settings.needed("token")))

    async def log_in(self, client: Any, credential: Credential) -> Grant:  # noqa: ANN401  hvac has no types.
        """Log in, as `LoginMethod.log_in`."""
        (jwt,) = credential.reveal()
        settings = self._settings
        return Grant.of(await client.auth.jwt.jwt_login(role=settings.role, jwt=jwt, path=settings.mount))


class KubernetesLogin:
    """Log in with the service account token that Kubernetes projects into the pod."""

    follows_file = False
    refusals = Refusals.OPEN

    def __init__(self, *, settings: KubernetesSettings, reader: CredentialReader) -> None:
        """Keep the settings."""
        self._settings = settings
        self._reader = reader

    def read(self) -> Credential:
        """Return the token, as `LoginMethod.read`; its mode is Kubernetes' choice."""
        return Credential.of(self._reader.name(Located("token_file", self._settings.token_file)))

    async def log_in(self, client: Any, credential: Credential) -> Grant:  # noqa: ANN401  hvac has no types.
        """Log in, as `LoginMethod.log_in`."""
        (jwt,) = credential.reveal()
        settings = self._settings
        answer = await client.auth.kubernetes.login(role=settings.role, jwt=jwt, mount_point=settings.mount)
        return Grant.of(answer)
