"""The authority's directory: `ca.crt` and `ca.key`, and `NAME.crt` and `NAME.key` for each certificate.

Nothing is overwritten, and a key has mode 0600 before its first byte is written.
"""

import datetime as dt
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from broker.errors import IdentityRefusedError, SettingsInvalidError
from broker.identity import identity_of
from broker.key_file import read_private, write_private
from broker.pki.certificate import (
    KeyType,
    PrivateKey,
    Usage,
    alternative_names,
    certificate_of_authority,
    certificate_of_leaf,
    new_key,
    purposes_of,
    validity_of,
)

# The name becomes a file's name, so it can be no path and no option of a command.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_COMMON_NAME_LENGTH: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One certificate that was written, and its key.

    Attributes:
        certificate: The PEM file of the certificate, mode 0644.
        key: The PEM file of its private key, mode 0600.
        name: The subject's common name.
        fingerprint: `sha256:` and 64 hex digits, over the DER.
        not_after: End of validity.
        identity: How policy would name the peer that shows it; empty for an authority or a server.

    """

    certificate: Path
    key: Path
    name: str
    fingerprint: str
    not_after: dt.datetime
    identity: str = ""


def create_authority(directory: Path, *, common_name: str, days: int, key_type: KeyType = "ec") -> Made:
    """Make a new authority in `directory`, which is made with mode 0700 if need be.

    Raises:
        SettingsInvalidError: There is one already, an argument is unusable, or a file can't be written.

    """
    if not 1 <= len(common_name) <= _COMMON_NAME_LENGTH:
        message = f"the name {common_name!r} needs 1 to {_COMMON_NAME_LENGTH} characters"
        raise SettingsInvalidError(message)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        message = f"{directory}: {error.strerror}"
        raise SettingsInvalidError(message) from None
    _refuse_to_overwrite(directory, "ca")
    start, end = validity_of(days)
    key = new_key(key_type)
    certificate = certificate_of_authority(common_name, key, start=start, end=end).sign(key, hashes.SHA256())
    return _write(directory, "ca", certificate, key, identity="")


def issue_certificate(
    directory: Path,
    *,
    name: str,
    usage: Usage,
    spiffe: str | None = None,
    dns: Sequence[str] = (),
    ips: Sequence[str] = (),
    days: int = 30,
    key_type: KeyType = "ec",
) -> Made:
    """Issue a certificate by the authority in `directory`, as `NAME.crt` and `NAME.key` beside it.

    Raises:
        SettingsInvalidError: There is no authority, the name is taken, an argument is unusable, an agent's names
            would be no identity for the broker, or a file can't be written.

    """
    if not _NAME.match(name) or name == "ca":
        message = f"the name {name!r} can't be a file's name here: letters, digits, '.', '_', '-', and not 'ca'"
        raise SettingsInvalidError(message)
    names = alternative_names(spiffe, dns, ips)
    if usage == "server" and not (dns or ips):
        message = "a server's certificate needs the DNS names or addresses that agents connect to"
        raise SettingsInvalidError(message)
    authority, authority_key = load_authority(directory)
    _refuse_to_overwrite(directory, name)
    start, end = validity_of(days)
    if end - authority.not_valid_after_utc >= dt.timedelta(days=1):
        message = f"{directory / 'ca.crt'}: expires at {authority.not_valid_after_utc:%Y-%m-%d}; ask for fewer days"
        raise SettingsInvalidError(message)
    key = new_key(key_type)
    certificate = certificate_of_leaf(
        name,
        key,
        issuer=authority.subject,
        issuer_key=authority_key,
        purposes=purposes_of(usage, spiffe),
        names=names,
        start=start,
        # Both may have been asked for as many days, and the authority was made some moments earlier.
        end=min(end, authority.not_valid_after_utc),
    ).sign(authority_key, hashes.SHA256())
    identity = _identity(certificate) if usage == "agent" else ""
    return _write(directory, name, certificate, key, identity=identity)


def load_authority(directory: Path) -> tuple[x509.Certificate, PrivateKey]:
    """Return the authority in `directory`, and its key.

    Raises:
        SettingsInvalidError: There is none, or a file of it can't be used.

    """
    file, key_file = directory / "ca.crt", directory / "ca.key"
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        message = f"{file}: {error.strerror}; make an authority first: broker pki init --dir {directory}"
        raise SettingsInvalidError(message) from None
    except ValueError:
        message = f"{file}: holds no certificate in PEM form"
        raise SettingsInvalidError(message) from None
    try:
        key = serialization.load_pem_private_key(read_private(key_file), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        message = f"{key_file}: holds no private key in PEM form that can be used"
        raise SettingsInvalidError(message) from None
    if not isinstance(key, PrivateKey) or key.public_key() != certificate.public_key():
        message = f"{key_file}: is not the key of {file}"
        raise SettingsInvalidError(message)
    return certificate, key


def _identity(certificate: x509.Certificate) -> str:
    """Return the name that the broker will see, so that a certificate it would refuse is never issued."""
    try:
        return identity_of(certificate.public_bytes(serialization.Encoding.DER)).name
    except IdentityRefusedError as error:
        message = f"the broker would refuse it: {error.detail}"
        raise SettingsInvalidError(message) from None


def _refuse_to_overwrite(directory: Path, stem: str) -> None:
    for file in (directory / f"{stem}.crt", directory / f"{stem}.key"):
        if os.path.lexists(file):
            message = f"{file}: exists already and is never overwritten; remove it, or choose another name"
            raise SettingsInvalidError(message)


def _write(directory: Path, stem: str, certificate: x509.Certificate, key: PrivateKey, *, identity: str) -> Made:
    files = directory / f"{stem}.crt", directory / f"{stem}.key"
    write_private(
        files[1],
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    write_private(files[0], certificate.public_bytes(serialization.Encoding.PEM))
    files[0].chmod(0o644)
    return Made(
        certificate=files[0],
        key=files[1],
        name=str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value),
        fingerprint=f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}",
        not_after=certificate.not_valid_after_utc,
        identity=identity,
    )
