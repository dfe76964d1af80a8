"""The broker's own keys, each in a file of the state directory, made at the first start."""

from dataclasses import dataclass
from pathlib import Path

from broker.audit.checkpoint import CheckpointKey, load_or_create_checkpoint_key
from broker.audit.fingerprint import Fingerprinter
from broker.errors import SettingsInvalidError
from broker.key_file import load_or_create_secret
from broker.tokens import SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnKeys:
    """What the broker signs tokens and checkpoints with, and names values by."""

    token: SigningKey
    checkpoint: CheckpointKey
    # Not the bytes of its key: this object's repr would show them.
    fingerprints: Fingerprinter

    @classmethod
    def of(cls, state_directory: Path) -> "OwnKeys":
        """Read the keys, or make those that are not there. Blocks.

        Raises:
            SettingsInvalidError: A file can't be used or made.

        """
        return cls(
            token=load_or_create_signing_key(state_directory / "token.key"),
            checkpoint=load_or_create_checkpoint_key(state_directory / "checkpoint.key"),
            fingerprints=Fingerprinter(key=load_or_create_secret(state_directory / "fingerprint.key"), key_id="k1"),
        )


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
