"""A small certificate authority in a directory, for development and small set-ups.

It holds `ca.crt` and `ca.key`, and `NAME.crt` and `NAME.key` for each certificate. Nothing is overwritten,
and a key has mode 0600 before its first byte is written.
"""

import datetime as dt
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.errors import IdentityRefusedError, SettingsInvalidError
from broker.identity import identity_of
from broker.key_file import read_private, write_private

KeyType = Literal["ec", "rsa4096"]
Usage = Literal["server", "agent"]

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
# The name becomes a file's name, so it can be no path and no option of a command.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_COMMON_NAME_LENGTH: Final = 64
# So that a machine whose clock runs a little behind accepts a certificate that has just been made.
_CLOCK_SKEW: Final = dt.timedelta(minutes=5)
_DAYS_LIMIT: Final = 36_500
_RSA_BITS: Final = 4096
_RSA_EXPONENT: Final = 65_537


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
    start, end = _validity(days)
    key = _new_key(key_type)
    subject = _common_name(common_name)
    builder = _builder(subject, subject, key, start, end)
    # No path length: the directory makes leaves only, and none of them may sign anything.
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    return _write(directory, "ca", builder.sign(key, hashes.SHA256()), key, identity="")


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

    A server's may serve, an agent's may connect; with a SPIFFE id it may do both (X509-SVID §4.4).

    Raises:
        SettingsInvalidError: There is no authority, the name is taken, an argument is unusable, an agent's names
            would be no identity for the broker, or a file can't be written.

    """
    if not _NAME.match(name) or name == "ca":
        message = f"the name {name!r} can't be a file's name here: letters, digits, '.', '_', '-', and not 'ca'"
        raise SettingsInvalidError(message)
    names = _alternative_names(spiffe, dns, ips)
    if usage == "server" and not (dns or ips):
        message = "a server's certificate needs the DNS names or addresses that agents connect to"
        raise SettingsInvalidError(message)
    authority, authority_key = load_authority(directory)
    _refuse_to_overwrite(directory, name)
    start, end = _validity(days)
    if end - authority.not_valid_after_utc >= dt.timedelta(days=1):
        message = f"{directory / 'ca.crt'}: expires at {authority.not_valid_after_utc:%Y-%m-%d}; ask for fewer days"
        raise SettingsInvalidError(message)
    # Both may have been asked for as many days, and the authority was made some moments earlier.
    end = min(end, authority.not_valid_after_utc)
    key = _new_key(key_type)
    builder = _builder(_common_name(name), authority.subject, key, start, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    builder = builder.add_extension(_purposes(usage, spiffe), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(authority_key, hashes.SHA256())
    identity = _identity(certificate) if usage == "agent" else ""
    return _write(directory, name, certificate, key, identity=identity)


def _alternative_names(spiffe: str | None, dns: Sequence[str], ips: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    try:
        if spiffe is not None:
            names.append(x509.UniformResourceIdentifier(spiffe))
        names.extend(x509.DNSName(name) for name in dns)
    except ValueError:
        message = "a SPIFFE id and DNS names are ASCII; write an international name as xn--..."
        raise SettingsInvalidError(message) from None
    for ip in ips:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(ip)))
        except ValueError:
            message = f"{ip!r} is no IP address"
            raise SettingsInvalidError(message) from None
    return names


def _identity(certificate: x509.Certificate) -> str:
    """Return the name that the broker will see, so that a certificate it would refuse is never issued."""
    try:
        return identity_of(certificate.public_bytes(serialization.Encoding.DER)).name
    except IdentityRefusedError as error:
        message = f"the broker would refuse it: {error.detail}"
        raise SettingsInvalidError(message) from None


def _purposes(usage: Usage, spiffe: str | None) -> x509.ExtendedKeyUsage:
    if spiffe is not None:
        return x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH if usage == "server" else ExtendedKeyUsageOID.CLIENT_AUTH]
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: _PrivateKey, start: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=start,
        not_valid_after=end,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def require_days(days: int) -> None:
    """Refuse a validity that is none, or longer than anybody means.

    Raises:
        SettingsInvalidError: It is.

    """
    if not 1 <= days <= _DAYS_LIMIT:
        message = f"{days} days: ask for 1 to {_DAYS_LIMIT}"
        raise SettingsInvalidError(message)


def _validity(days: int) -> tuple[dt.datetime, dt.datetime]:
    require_days(days)
    # Certificates count whole seconds.
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return now - _CLOCK_SKEW, now + dt.timedelta(days=days)


def _new_key(key_type: KeyType) -> _PrivateKey:
    if key_type == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=_RSA_EXPONENT, key_size=_RSA_BITS)


def load_authority(directory: Path) -> tuple[x509.Certificate, _PrivateKey]:
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
    if not isinstance(key, _PrivateKey) or key.public_key() != certificate.public_key():
        message = f"{key_file}: is not the key of {file}"
        raise SettingsInvalidError(message)
    return certificate, key


def _refuse_to_overwrite(directory: Path, stem: str) -> None:
    for file in (directory / f"{stem}.crt", directory / f"{stem}.key"):
        if os.path.lexists(file):
            message = f"{file}: exists already and is never overwritten; remove it, or choose another name"
            raise SettingsInvalidError(message)


def _write(directory: Path, stem: str, certificate: x509.Certificate, key: _PrivateKey, *, identity: str) -> Made:
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
