"""What is remembered of the stores, sealed in a file, so that a restart during an outage has something to serve.

Each entry is sealed by AES-256-GCM and bound to its source, its times, its place and the file's number; a last record
binds how many there are and what they are. So a changed byte, another key, a cut file and an entry of another file are
all found, and then nothing of the file is used. Each file has a key of its own, derived from the operator's one, so
that no number of files uses a nonce twice. A file older than the last one that was written is refused by its number,
which stands in a file beside it: whoever puts both back gets values that still end when they ended.
"""

import hashlib
import json
import secrets
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker import written_json
from broker.cache.remembered import Entry
from broker.errors import BrokerError
from broker.grammar import VAULT
from broker.key_file import read_private
from broker.reference import Source
from broker.secret import Facts, Reading, SecretDocument
from broker.whole_file import replace_whole

KEY_BYTES: Final = 32
_MAGIC: Final = b"logflux-broker sealed cache 1\n"
_SALT_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_LENGTHS: Final = struct.Struct(">II")
# What stands for the end of the file in place of the description of an entry.
_END: Final = b"end"
# An entry takes a description beside its value, and a value as JSON takes more bytes than its texts.
_MAX_FILE_BYTES: Final = 1024 * 1024 * 1024


class SealedCacheError(BrokerError):
    """The file can't be used; `reason` is a slug for the log."""

    code = "sealed_cache_unusable"

    def __init__(self, detail: str, *, reason: str) -> None:
        """Keep the reason."""
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedEntry:
    """One entry: wall times of its reading and of its last end, which the source's own end is part of."""

    source: Source
    reading: Reading
    fetched_at: float
    ends_at: float


class SealedFile:
    """Write and read one file; every method blocks."""

    def __init__(self, *, file: Path, key: bytes) -> None:
        """Keep the key, `KEY_BYTES` of it, for `file`."""
        self._file = file
        self._counter = file.with_suffix(".number")
        self._key = key
        self._written: frozenset[tuple[Source, float, float]] | None = None

    def save(self, held: Iterable[tuple[Source, Entry]]) -> bool:
        """Write what stores gave of `held`, unless that is what the file has already; return whether it was written.

        Raises:
            SealedCacheError: The file can't be written.

        """
        entries = [_entry(source, entry) for source, entry in held if source.scheme == VAULT]
        content = frozenset((entry.source, entry.fetched_at, entry.ends_at) for entry in entries)
        if content == self._written:
            return False
        number = self._number() + 1
        try:
            replace_whole(self._file, self._sealed(entries, number), mode=0o600)
            # After the file: a crash between the two leaves a file that is newer than its number, which is good.
            replace_whole(self._counter, [str(number).encode()], mode=0o600)
        except OSError as error:
            message = f"{self._file}: {error.strerror}"
            raise SealedCacheError(message, reason="unwritable") from None
        self._written = content
        return True

    def load(self, *, now: float) -> list[SealedEntry]:
        """Return the entries whose end is after the wall time `now`; none when there is no file.

        Raises:
            SealedCacheError: The file can't be read, or is not what this broker wrote last with this key.

        """
        try:
            if self._file.stat().st_size > _MAX_FILE_BYTES:
                message = f"{self._file}: larger than any that the broker writes"
                raise SealedCacheError(message, reason="too_large")
            data = read_private(self._file)
        except FileNotFoundError:
            return []
        entries, number = self._opened(data)
        if number < self._number():
            message = f"{self._file}: older than the last one that was written"
            raise SealedCacheError(message, reason="rolled_back")
        # What was read after now was read by another clock, and its age is unknown.
        return [entry for entry in entries if entry.fetched_at <= now < entry.ends_at]

    def _number(self) -> int:
        try:
            return int(read_private(self._counter))
        except (BrokerError, ValueError):
            return 0

    def _sealed(self, entries: Iterable[SealedEntry], number: int) -> Iterator[bytes]:
        salt = secrets.token_bytes(_SALT_BYTES)
        sealer = self._sealer(salt)
        yield _MAGIC + salt
        digest, place = hashlib.sha256(), 0
        for place, entry in enumerate(entries, 1):
            record = _record(sealer, place - 1, _description(entry, number), _value(entry))
            digest.update(record)
            yield record
        yield _record(sealer, place, _END, json.dumps({"number": number, "digest": digest.hexdigest()}).encode())

    def _opened(self, data: bytes) -> tuple[list[SealedEntry], int]:
        digest = hashlib.sha256()
        entries: list[SealedEntry] = []
        numbers: set[int] = set()
        try:
            if not data.startswith(_MAGIC):
                raise _changed(self._file)
            at = len(_MAGIC) + _SALT_BYTES
            sealer = self._sealer(data[len(_MAGIC) : at])
            while True:
                described, sealed = _LENGTHS.unpack_from(data, at)
                start = at + _LENGTHS.size + described
                end = start + sealed
                description = data[at + _LENGTHS.size : start]
                value = sealer.decrypt(_nonce(len(entries)), data[start:end], _MAGIC + description)
                if description == _END:
                    break
                entry, number = _restored(json.loads(description), value)
                entries.append(entry)
                numbers.add(number)
                digest.update(data[at:end])
                at = end
            last = json.loads(value)
        except (InvalidTag, ValueError, KeyError, TypeError, struct.error):
            raise _changed(self._file) from None
        if last["digest"] != digest.hexdigest() or not numbers <= {last["number"]} or end != len(data):
            raise _changed(self._file)
        return entries, int(last["number"])

    def _sealer(self, salt: bytes) -> AESGCM:
        return AESGCM(HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt, info=_MAGIC).derive(self._key))


def _record(sealer: AESGCM, place: int, description: bytes, value: bytes) -> bytes:
    sealed = sealer.encrypt(_nonce(place), value, _MAGIC + description)
    return _LENGTHS.pack(len(description), len(sealed)) + description + sealed


def _nonce(place: int) -> bytes:
    """Return the nonce of the record at `place`, from 0: each is used once with the key of a file."""
    return place.to_bytes(_NONCE_BYTES, "big")


def load_sealing_key(file: Path) -> bytes:
    """Return the key in `file`.

    Raises:
        FoundError: It can't be read, or is open to others.
        ValueError: It is no key.

    """
    key = read_private(file)
    if len(key) != KEY_BYTES:
        message = f"write {KEY_BYTES} random bytes, such as by: head -c {KEY_BYTES} /dev/urandom"
        raise ValueError(message)
    return key


def _entry(source: Source, entry: Entry) -> SealedEntry:
    return SealedEntry(
        source=source,
        reading=entry.reading,
        fetched_at=entry.fetched_at,
        ends_at=min(entry.fetched_at + entry.lasts_until - entry.born, entry.reading.not_after or float("inf")),
    )


def _description(entry: SealedEntry, number: int) -> bytes:
    reading = entry.reading
    described = {
        "number": number,
        "source": entry.source,
        "fetched_at": entry.fetched_at,
        "ends_at": entry.ends_at,
        "version": reading.version,
        "created_at": reading.created_at,
        "upstream_request": reading.upstream_request,
        "facts": asdict(reading.facts),
        "fields": reading.document.has_fields,
    }
    return json.dumps(described, separators=(",", ":")).encode()


def _value(entry: SealedEntry) -> bytes:
    return entry.reading.document.whole().reveal()


def _restored(described: Mapping[str, Any], value: bytes) -> tuple[SealedEntry, int]:
    scheme, path, version, parameters = described["source"]
    reading = Reading(
        # Files of earlier versions hold nothing but fields, and do not say so.
        _document(value) if described.get("fields", True) else SecretDocument.of_bytes(value),
        version=described["version"],
        not_after=described["ends_at"],
        upstream_request=described["upstream_request"],
        created_at=described["created_at"],
        facts=Facts(**described["facts"]),
    )
    entry = SealedEntry(
        source=Source(scheme, path, version, tuple((key, value) for key, value in parameters)),
        reading=reading,
        fetched_at=described["fetched_at"],
        ends_at=described["ends_at"],
    )
    return entry, described["number"]


def _document(value: bytes) -> SecretDocument:
    # The size counts against the bound of the cache, as it did before.
    return SecretDocument.of_fields(written_json.read(value), size=len(value))


def _changed(file: Path) -> SealedCacheError:
    message = f"{file}: cut, changed, or sealed with another key"
    return SealedCacheError(message, reason="changed")
