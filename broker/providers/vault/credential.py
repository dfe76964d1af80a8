"""What proves the broker to its store, read from files that nobody else may read."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from broker.errors import SettingsInvalidError, SourceUnavailableError
from broker.key_file import read_private
from broker.providers.vault.settings import AuthSettings
from broker.secret import Encoding, SecretValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A role id with its secret id, or a token. `digest` tells whether it has changed."""

    role_id: str | None
    secret: SecretValue
    digest: bytes


def read_credential(auth: AuthSettings) -> Credential:
    """Return what the files of `auth` hold now. Blocks.

    Raises:
        SourceUnavailableError: A file is missing, empty, no text, or open to others; names the setting, not the path.

    """
    if auth.approle is not None:
        approle = auth.approle
        where = "providers.vault.auth.approle"
        role_id = approle.role_id
        if approle.role_id_file is not None:
            # A role id is a name and no secret, so its file may be readable.
            role_id = _text(approle.role_id_file, f"{where}.role_id_file", Path.read_bytes)
        secret = _text(approle.secret_id_file, f"{where}.secret_id_file", read_private)
    elif auth.token_file is not None:
        role_id = None
        secret = _text(auth.token_file, "providers.vault.auth.token_file", read_private)
    else:
        message = "providers.vault.auth: names no way to log in"
        raise SourceUnavailableError(message)
    digest = hashlib.sha256(f"{role_id}\0{secret}".encode()).digest()
    return Credential(role_id=role_id, secret=SecretValue(secret.encode(), encoding=Encoding.TEXT), digest=digest)


def _text(file: Path, setting: str, read: Callable[[Path], bytes]) -> str:
    try:
        text = read(file).decode("ascii").strip()
    except SettingsInvalidError as error:
        raise SourceUnavailableError(error.detail.replace(str(file), setting)) from None
    except OSError as error:
        message = f"{setting}: {error.strerror}"
        raise SourceUnavailableError(message) from None
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text or " " in text:
        message = f"{setting}: holds no credential in one line"
        raise SourceUnavailableError(message)
    return text
