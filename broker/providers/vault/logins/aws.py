"""AWS IAM: a question to AWS about who asks, signed here and put by the store."""

from typing import Any

from broker.providers.vault.logins.method import Credential, Grant, read_secret, read_word
from broker.providers.vault.logins.settings import AwsSettings


class AwsLogin:
    """Log in with the access key in files; nothing is taken from the environment or from the machine."""

    follows_file = False

    def __init__(self, *, settings: AwsSettings) -> None:
        """Keep the settings."""
        self._settings = settings

    def read(self) -> Credential:
        """Return access key id, secret access key and session token, as `LoginMethod.read`."""
        settings = self._settings
        parts = [
            read_word(settings.access_key_id_file, "aws.access_key_id_file"),
            read_secret(settings.secret_access_key_file, "aws.secret_access_key_file"),
        ]
        if settings.session_token_file is not None:
            parts.append(read_secret(settings.session_token_file, "aws.session_token_file"))
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
