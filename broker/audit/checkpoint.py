"""Checkpoints: signed notes (C2SP) that say how long the trail was and how its last record hashed."""

import base64
import binascii
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from broker.audit.chain import HASH_BYTES
from broker.audit.heartbeat import Heartbeat
from broker.errors import SettingsInvalidError
from broker.key_file import load_or_create_secret

KEY_NAME: Final = "logflux-broker"
_ED25519: Final = b"\x01"
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
_ORIGIN_END: Final = b"/chain"
_DASH: Final = "\u2014"
_VERIFIER_KEY: Final = re.compile(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint says: the trail `trail_id` had `size` records, and the last one's hash was `head`.

    `heartbeat` is None where an older broker signed it.
    """

    trail_id: str
    size: int
    head: bytes
    time: str
    heartbeat: Heartbeat | None


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The public half of a checkpoint key, with the name that its signatures carry."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """Return the four bytes that name the key in a signature line."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:_ID_BYTES]

    @property
    def text(self) -> str:
        """Return the key as operators keep it: `name+id+key`."""
        return f"{self.name}+{self.key_id.hex()}+{_base64(_ED25519 + self.public_key)}"

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """Return the key that `text` spells.

        Raises:
            SettingsInvalidError: It is no Ed25519 verifier key, or its id is another key's.

        """
        match = _VERIFIER_KEY.fullmatch(text.strip())
        data = _unbase64(match[3]) if match else b""
        if match and len(data) == 1 + _KEY_BYTES and data[:1] == _ED25519:
            key = cls(match[1], data[1:])
            if key.key_id.hex() == match[2]:
                return key
        message = "the verifier key is not of the form `name+8 hex digits+base64`; `broker audit verify` prints it"
        raise SettingsInvalidError(message)

    def verifies(self, signature: bytes, signed: bytes) -> bool:
        """Tell whether this key signed `signed`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, signed)
        except (InvalidSignature, ValueError):
            return False
        return True


class CheckpointKey:
    """The private key that signs checkpoints."""

    def __init__(self, private_key: Ed25519PrivateKey, *, name: str = KEY_NAME) -> None:
        """Take the key and the name of its signatures, which has no space and no `+`."""
        self._private_key = private_key
        public = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verifier = VerifierKey(name, public)

    def sign(self, checkpoint: Checkpoint) -> bytes:
        """Return the signed note of `checkpoint`."""
        heartbeat = checkpoint.heartbeat
        lines = (
            _origin(self.verifier),
            str(checkpoint.size),
            _base64(checkpoint.head),
            f"trail {checkpoint.trail_id}",
            f"time {checkpoint.time}",
            *([] if heartbeat is None else [f"beat {heartbeat.text}"]),
        )
        signed = "".join(line + "\n" for line in lines)
        signature = self.verifier.key_id + self._private_key.sign(signed.encode())
        return f"{signed}\n{_DASH} {self.verifier.name} {_base64(signature)}\n".encode()


def load_or_create_checkpoint_key(file: Path) -> CheckpointKey:
    """Return the key in `file` (PKCS#8 PEM, mode 0600), made at the first start.

    Raises:
        SettingsInvalidError: The file can't be used, is open to others, or holds no Ed25519 key.

    """
    data = load_or_create_secret(file, make=_new_key)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        message = f"{file}: holds no Ed25519 private key in PEM"
        raise SettingsInvalidError(message) from None
    return CheckpointKey(key)


def open_note(note: bytes, key: VerifierKey) -> Checkpoint | None:
    """Return what `note` says, or None when `key` did not sign it or it does not parse."""
    signed, separator, signatures = note.partition(b"\n\n")
    if not separator:
        return None
    signed += b"\n"
    known = [data[_ID_BYTES:] for name, data in _signatures(signatures) if _is_from(key, name, data)]
    # A signature of another key is ignored, which is how keys rotate; one of ours that fails spoils the note.
    if not known or not all(key.verifies(signature, signed) for signature in known):
        return None
    return _parse(signed.decode("utf-8", "replace").split("\n"), origin=_origin(key))


def notes_in(text: bytes) -> Iterator[bytes]:
    """Return each complete note of a checkpoint file; what a crash left without a signature line is no note."""
    note: list[bytes] = []
    lines = text.split(b"\n")
    # The last line has no newline at its end: it is empty, or torn.
    for line in lines[:-1]:
        if line.endswith(_ORIGIN_END):
            note = []
        if line or note:
            note.append(line)
        if line.startswith(_DASH.encode()):
            yield b"\n".join(note) + b"\n"
            note = []


def append_note(file: Path, note: bytes) -> None:
    """Append `note` to the checkpoint file and return when it is durable. Raises: OSError."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as handle:
        before = os.fstat(descriptor).st_size
        # The newline in front ends a line that a crash tore, so that this note can be read.
        data = b"\n" + note
        if handle.write(data) != len(data):
            # A full disk takes a part. Half a signature would look like a forged one for ever.
            handle.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)


def _new_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _signatures(text: bytes) -> Iterator[tuple[str, bytes]]:
    for line in text.decode("utf-8", "replace").split("\n"):
        match line.split(" "):
            case [dash, name, data] if dash == _DASH:
                yield name, _unbase64(data)


def _is_from(key: VerifierKey, name: str, data: bytes) -> bool:
    return name == key.name and data[:_ID_BYTES] == key.key_id


def _parse(lines: list[str], *, origin: str) -> Checkpoint | None:
    match lines:
        case [first, size, head, trail, time, *beat, ""] if first == origin and size.isascii() and size.isdecimal():
            data, heartbeat = _unbase64(head), Heartbeat.parse(beat[0].removeprefix("beat ")) if beat else None
            known = not beat or (len(beat) == 1 and beat[0].startswith("beat ") and heartbeat is not None)
            if len(data) == HASH_BYTES and trail.startswith("trail ") and time.startswith("time ") and known:
                return Checkpoint(
                    trail_id=trail.removeprefix("trail "),
                    size=int(size[:19]),
                    head=data,
                    time=time.removeprefix("time "),
                    heartbeat=heartbeat,
                )
    return None


def _origin(key: VerifierKey) -> str:
    return key.name + _ORIGIN_END.decode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str) -> bytes:
    """Return the bytes, none when `text` is not their one spelling: the last character may hold unused bits."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return found if _base64(found) == text else b""
