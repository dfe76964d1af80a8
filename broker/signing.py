"""The key that signs tokens, in a file of the state directory."""

from pathlib import Path

from broker.errors import SettingsInvalidError
from broker.key_file import load_or_create_secret
from broker.tokens import SigningKey


def load_or_create_signing_key(file: Path) -> SigningKey:
    """Return the key in `file`, made at the first start.

    Raises:
        SettingsInvalidError: The file is open to others, or holds no EC P-256 key.

    """
    pem = load_or_create_secret(file, make=SigningKey.generate_pem)
    try:
        return SigningKey(pem)
    except ValueError:
        message = f"{file}: is no private EC P-256 key in PEM; remove it, and a new one is made at the next start"
        raise SettingsInvalidError(message) from None
