"""The keys that sign webhooks, kept equal to their files."""

import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from broker.finding import FoundError, found
from broker.key_file import read_private
from broker.orders.webhook import WebhookVerifier, parse_key
from broker.reload import Accepted, PartName, Refused
from broker.secret import SecretValue

_LABEL: Final = b"logflux-broker webhook key"
_DIGEST_BYTES: Final = 8


def read_webhook_keys(files: Sequence[Path]) -> Mapping[str, SecretValue]:
    """Return the keys, each by the name of its file. Blocks.

    Raises:
        FoundError: A file can't be used.

    """
    keys: dict[str, SecretValue] = {}
    for file in files:
        try:
            keys[file.name] = parse_key(read_private(file))
        except ValueError as error:
            raise found(file, "webhook_key_unusable", "holds no webhook key", str(error)) from None
    return keys


class WebhookKeys:
    """Read the files of one verifier, and put what they hold in force."""

    def __init__(self, *, files: Sequence[Path], verifier: WebhookVerifier) -> None:
        """Keep `verifier`, which has the keys of `files` already."""
        self._files = files
        self._verifier = verifier

    @property
    def name(self) -> PartName:
        """Return the keys'."""
        return PartName.WEBHOOK_KEYS

    @property
    def watched(self) -> Sequence[Path]:
        """Return the files."""
        return self._files

    def read(self) -> Sequence[Accepted | Refused]:
        """Return the keys of the files as they stand, ready to be put in force all at once. Blocks."""
        try:
            keys = read_webhook_keys(self._files)
        except FoundError as error:
            return [Refused(part=PartName.WEBHOOK_KEYS, code=error.finding.code, detail=error.detail)]

        def apply() -> None:
            self._verifier.replace(keys)

        before, after = _digest(self._verifier.keys), _digest(keys)
        return [Accepted(part=PartName.WEBHOOK_KEYS, apply=apply, before=before, after=after)]


def _digest(keys: Mapping[str, SecretValue]) -> str:
    """Return what tells these keys from others, and neither shows one nor helps to guess it: they are random."""
    return ", ".join(
        f"{name}={hmac.digest(key.reveal(), _LABEL, 'sha256')[:_DIGEST_BYTES].hex()}" for name, key in keys.items()
    )
