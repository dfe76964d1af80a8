"""The chain: what a record's hash covers, and where it begins. Pure."""

import hashlib
from dataclasses import dataclass
from typing import Final

# A label that no other signature or hash of the broker uses keeps one from standing for another.
_RECORD_LABEL: Final = b"lf-audit/record/v1\0"
_GENESIS_LABEL: Final = b"lf-audit/genesis/v1\0"
TRAIL_ID_BYTES: Final = 16
HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailRecord:
    """One record as it is kept. The hash covers `body` alone; the other columns only find it quickly."""

    trail_id: str
    seq: int
    time_ms: int
    kind: str
    outcome: str
    identity: str
    body: bytes
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a trail ends. `first` is the body of record 1, which names the key that the trail was begun with."""

    trail_id: str
    seq: int
    hash: bytes
    first: bytes


def genesis_hash(*, trail_id: str, created_ms: int, public_key: bytes) -> bytes:
    """Return the hash that record 1 carries as its `prev`."""
    data = bytes.fromhex(trail_id) + created_ms.to_bytes(8, "big") + public_key
    return hashlib.sha256(_GENESIS_LABEL + data).digest()


def record_hash(*, prev: bytes, seq: int, body: bytes) -> bytes:
    """Return the hash of record `seq`, which follows the record whose hash is `prev`."""
    framed = prev + seq.to_bytes(8, "big") + len(body).to_bytes(8, "big") + body
    return hashlib.sha256(_RECORD_LABEL + framed).digest()
