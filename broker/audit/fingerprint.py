"""Keyed fingerprints: they answer "who received this value" without holding it."""

import hmac
from typing import Final

from broker.errors import SettingsInvalidError
from broker.secret import SecretValue

MINIMUM_VALUE_BYTES: Final = 8
_MINIMUM_KEY_BYTES: Final = 32
_LABEL: Final = b"lf-fp/v1\0"
# RFC 2104 §5: a MAC is not cut below half of its hash.
_DIGEST_BYTES: Final = 16


class Fingerprinter:
    """Compute `fp:<key id>:<32 hex digits>` under one key."""

    def __init__(self, *, key: bytes, key_id: str) -> None:
        """Take the key of 32 bytes or more, and the short name that its fingerprints carry.

        Raises:
            SettingsInvalidError: The key is too short to keep values from being guessed.

        """
        if len(key) < _MINIMUM_KEY_BYTES:
            message = f"the fingerprint key has {len(key)} bytes and needs {_MINIMUM_KEY_BYTES}"
            raise SettingsInvalidError(message)
        self._key = key
        self._prefix = f"fp:{key_id}:"

    def of(self, value: SecretValue) -> str:
        """Return the fingerprint of `value`; empty for a short one, where equality alone tells too much."""
        data = value.reveal()
        if len(data) < MINIMUM_VALUE_BYTES:
            return ""
        return self._prefix + hmac.digest(self._key, _LABEL + data, "sha256")[:_DIGEST_BYTES].hex()
