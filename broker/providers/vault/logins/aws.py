"""AWS IAM: a question to AWS about who asks, signed here and put by the store."""

from typing import Any

from broker.providers.vault.logins.method import Credential, CredentialReader, Grant, Refusals
from broker.providers.vault.logins.settings import AwsSettings


class AwsLogin:
    """Log in with a named access key; nothing is taken from the environment or from the machine unasked."""

    follows_file = False
    refusals = Refusals.OPEN

    def __init__(self, *, settings: AwsSettings, reader: CredentialReader) -> None:
        """Keep the settings."""
        self._settings = settings
        self._reader = reader

    def read(self) -> Credential:
        """Return access key id, secret access key and session token, as `LoginMethod.read`."""
        settings, reader = self._settings, self._reader
        parts = [
            reader.name(settings.needed("access_key_id")),
            reader.secret(settings.needed("secret_access_key")),
        ]
        session_token = settings.credential("session_token")
        if session_token is not None:
            parts.append(reader.secret(session_token))
        return Credential.of(*parts)

    async def log_in(self, client: Any, credential: Credential) -> Grant:  # noqa: ANN401  hvac has no types.
        """Log in, as `LoginMethod.log_in`; the secret key signs and never travels."""
        access_key, secret_key, *session_token = credential.reveal()
        answer = await client.auth.aws.iam_login(
            access_key,
            secret_key,
            session_token=session_token[0] if session_token else None,
            header_value=self._settings.server_id,
            role=self._settings.role,
            region=self._settings.region,
            mount_point=self._settings.mount,
        )
        return Grant.of(answer)
