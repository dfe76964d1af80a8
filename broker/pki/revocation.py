"""The revocation list of the small authority in a directory: `ca.crl`, with every certificate revoked so far."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from broker.errors import SettingsInvalidError
from broker.pki.authority import load_authority
from broker.pki.certificate import validity_of
from broker.whole_file import replace_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class ListMade:
    """A list that was written: its file, its number, when it ends and how many certificates it revokes."""

    file: Path
    number: int
    not_after: dt.datetime
    revoked: int


def write_revocation_list(directory: Path, *, revoke: Sequence[Path] = (), days: int) -> ListMade:
    """Write the next list of the authority in `directory`: what was revoked before, and the certificates of `revoke`.

    The old list is replaced in one step, so that a broker that looks meanwhile sees one or the other.

    Raises:
        SettingsInvalidError: There is no authority, a certificate is not one of its own, or a file can't be used.

    """
    start, end = validity_of(days)
    authority, key = load_authority(directory)
    file = directory / "ca.crl"
    number, entries = _before(file)
    for certificate in revoke:
        serial = _serial(certificate, authority)
        entries.setdefault(serial, _entry(serial))
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=authority.subject,
        last_update=start,
        next_update=end,
        revoked_certificates=list(entries.values()),
    )
    builder = builder.add_extension(x509.CRLNumber(number + 1), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
    _replace(file, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return ListMade(file=file, number=number + 1, not_after=end, revoked=len(entries))


def _before(file: Path) -> tuple[int, dict[int, x509.RevokedCertificate]]:
    if not file.exists():
        return 0, {}
    try:
        found = x509.load_pem_x509_crl(file.read_bytes())
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        return number, {entry.serial_number: entry for entry in found}
    except (OSError, ValueError, x509.ExtensionNotFound):
        message = f"{file}: is no revocation list of this authority; remove it only if nothing was ever revoked"
        raise SettingsInvalidError(message) from None


def _serial(file: Path, authority: x509.Certificate) -> int:
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        certificate.verify_directly_issued_by(authority)
    except OSError as error:
        message = f"{file}: {error.strerror}; name the certificate that is to be revoked"
        raise SettingsInvalidError(message) from None
    except Exception:  # noqa: BLE001  The library raises errors of many kinds, and each means the same here.
        message = f"{file}: is no certificate of this authority"
        raise SettingsInvalidError(message) from None
    return certificate.serial_number


def _entry(serial: int) -> x509.RevokedCertificate:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=now).build()


def _replace(file: Path, data: bytes) -> None:
    try:
        replace_whole(file, [data], mode=0o644)
    except OSError as error:
        message = f"{file}: {error.strerror}"
        raise SettingsInvalidError(message) from None
