"""Verify signed webhooks, as the Standard Webhooks specification has them. Pure.

The signature is HMAC-SHA-256 over `id.timestamp.body`. Several keys count at once, so that one can replace another.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from broker.errors import WebhookRefusedError, WebhookRefusedReason
from broker.secret import Encoding, SecretValue

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"
HEADERS: Final = (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)
KEY_PREFIX: Final = "whsec_"
_VERSION: Final = "v1,"
_MIN_KEY_BYTES, _MAX_KEY_BYTES = 24, 64
_MAX_SIGNATURES: Final = 8
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Message:
    """What the headers of a webhook say, not verified in any way: `sent_at` is in wall seconds."""

    unverified_id: str
    sent_at: int
    signatures: tuple[str, ...]


def parse_key(text: bytes) -> SecretValue:
    """Return the key that a file holds: `whsec_` and 24 to 64 bytes in base64.

    Raises:
        ValueError: It holds none.

    """
    prefix, _, spelled = text.strip().partition(b"_")
    try:
        key = base64.b64decode(spelled, validate=True)
    except binascii.Error:
        key = b""
    if prefix != KEY_PREFIX.rstrip("_").encode() or not _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES:
        message = f"write {KEY_PREFIX} and {_MIN_KEY_BYTES} to {_MAX_KEY_BYTES} random bytes in base64"
        raise ValueError(message)
    return SecretValue(key, encoding=Encoding.BASE64)


def read_headers(headers: Mapping[str, Sequence[str]]) -> Message:
    """Return what the headers say, each given as its lines.

    Raises:
        WebhookRefusedError: One is missing or malformed.

    """
    unverified_id, sent_at, signature = (
        lines[0] if len(lines := headers.get(name, ())) == 1 else "" for name in HEADERS
    )
    signatures = tuple(signature.split(" "))
    well_formed = _ID.fullmatch(unverified_id) and _TIMESTAMP.fullmatch(sent_at)
    if not well_formed or not signatures[0] or len(signatures) > _MAX_SIGNATURES:
        message = (
            f"send {ID_HEADER} (letters, digits, - and _), {TIMESTAMP_HEADER} (Unix seconds) and "
            f"{SIGNATURE_HEADER} ({_VERSION}<base64>), each once"
        )
        raise WebhookRefusedError(message, reason=WebhookRefusedReason.UNSIGNED)
    return Message(unverified_id, int(sent_at), signatures)


class WebhookVerifier:
    """Verify messages, and take each once."""

    def __init__(self, *, keys: Mapping[str, SecretValue], tolerance_seconds: float) -> None:
        """Accept the signatures of `keys`, by their names, within `tolerance_seconds` of their time."""
        self._keys = keys
        self._tolerance = tolerance_seconds
        # Ids that were taken, with the wall time after which their signatures are too old by themselves.
        self._taken: dict[str, float] = {}

    @property
    def keys(self) -> Mapping[str, SecretValue]:
        """Return the keys that count, by their names."""
        return self._keys

    def replace(self, keys: Mapping[str, SecretValue]) -> None:
        """Let `keys` count from now on, and no others; what was taken before stays taken."""
        self._keys = keys

    def verify(self, message: Message, body: bytes, *, now: float) -> str:
        """Return the name of the key that signed this message, which is not taken thereby.

        Raises:
            WebhookRefusedError: It is too old or from the future, no key signed it, or it was taken before.

        """
        if abs(now - message.sent_at) > self._tolerance:
            detail = f"its timestamp is not within {self._tolerance:g} seconds of the broker's clock"
            raise WebhookRefusedError(detail, reason=WebhookRefusedReason.TIMESTAMP)
        signer = self._signer(message, body)
        if signer is None:
            detail = "no key of the broker made its signature"
            raise WebhookRefusedError(detail, reason=WebhookRefusedReason.SIGNATURE)
        self._forget_old(now)
        if message.unverified_id in self._taken:
            detail = "a message of this id was taken before"
            raise WebhookRefusedError(detail, reason=WebhookRefusedReason.REPLAYED)
        return signer

    def take(self, message: Message) -> None:
        """Let a verified message count once."""
        self._taken[message.unverified_id] = message.sent_at + self._tolerance

    def give_back(self, message: Message) -> None:
        """Let a message be sent again, because it had no effect."""
        self._taken.pop(message.unverified_id, None)

    def _signer(self, message: Message, body: bytes) -> str | None:
        signed = f"{message.unverified_id}.{message.sent_at}.".encode() + body
        signer = None
        # Every key and signature is compared, so that the time tells nothing about which of them were close.
        for name, key in self._keys.items():
            expected = _VERSION + base64.b64encode(hmac.digest(key.reveal(), signed, "sha256")).decode("ascii")
            for signature in message.signatures:
                if hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogateescape")):
                    signer = name
        return signer

    def _forget_old(self, now: float) -> None:
        for unverified_id in [known for known, end in self._taken.items() if end < now]:
            del self._taken[unverified_id]
