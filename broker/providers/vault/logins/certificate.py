"""A client certificate, shown on connections of its own."""

import hashlib
from typing import Any

from broker.errors import SettingsInvalidError, SourceUnavailableError
from broker.key_file import read_private
from broker.providers.vault.logins.method import Credential, Grant, Refusals
from broker.providers.vault.logins.settings import CertificateSettings


class CertificateLogin:
    """Log in with the certificate that the transport shows for logins and renewals."""

    follows_file = False
    refusals = Refusals.OPEN

    def __init__(self, *, settings: CertificateSettings) -> None:
        """Keep the settings."""
        self._settings = settings

    def read(self) -> Credential:
        """Return the digest of certificate and key, which the TLS connection proves; as `LoginMethod.read`."""
        where = "providers.vault.auth.certificate"
        try:
            certificate = self._settings.certificate_file.read_bytes()
            key = read_private(self._settings.key_file)
        except SettingsInvalidError as error:
            detail = error.detail.replace(str(self._settings.key_file), f"{where}.key_file")
            raise SourceUnavailableError(detail) from None
        except OSError as error:
            message = f"{where}.certificate_file: {error.strerror}"
            raise SourceUnavailableError(message) from None
        return Credential(parts=(), digest=hashlib.sha256(certificate + key).digest())

    async def log_in(self, client: Any, credential: Credential) -> Grant:  # noqa: ANN401  hvac has no types.
        """Log in, as `LoginMethod.log_in`."""
        del credential
        role = {"name": self._settings.role} if self._settings.role else {}
        # hvac's own method wants to open the files itself.
        return Grant.of(await client.adapter.login(f"/v1/auth/{self._settings.mount}/login", json=role))
