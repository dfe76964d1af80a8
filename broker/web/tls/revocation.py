"""Certificate revocation lists: read, checked before they count, and asked at each request.

OpenSSL asks them in the handshake. It never asks again, so a connection that was open before would outlive
the revocation; for those there is the set of revoked certificates.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.finding import FoundError, found
from broker.identity import certificate_ids
from broker.key_file import unreadable

_BLOCK: Final = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationLists:
    """The lists of one file, all of them signed by an authority of the agents.

    Attributes:
        pem: What OpenSSL is given.
        revoked: What may not be used any more, by `certificate_ids`.
        last_update: When the oldest of them begins, in wall seconds.
        next_update: When the first of them ends, in wall seconds.
        numbers: The number of each authority's list, by the authority's public key in DER.

    """

    pem: bytes
    revoked: frozenset[str]
    last_update: float
    next_update: float
    numbers: Mapping[bytes, int]

    def is_stale(self, now: float) -> bool:
        """Tell whether a list has ended."""
        return now >= self.next_update


def read_lists(
    file: Path,
    authorities: Sequence[x509.Certificate],
    *,
    now: float,
    keep_stale: bool,
    before: RevocationLists | None = None,
) -> RevocationLists:
    """Return the lists of `file`, PEM or DER, for `authorities`. Blocks.

    Args:
        file: Holds one list or more.
        authorities: Those of the agents; each that is valid needs a list, since OpenSSL asks for it.
        now: The wall time.
        keep_stale: Whether a list that has ended is used all the same.
        before: What was in force, whose numbers may not go back.

    Raises:
        FoundError: The file can't be used; says why, and what to do.

    """
    signed = [(crl, _signer(file, crl, authorities)) for crl in _parsed(file)]
    lists = _latest(signed)
    for crl in lists.values():
        _check_dates(file, crl, now=now, keep_stale=keep_stale)
    for authority in authorities:
        if key_of(authority) not in lists and now <= authority.not_valid_after_utc.timestamp():
            name = authority.subject.rfc4514_string()
            why = f"holds no list of the authority {name!r}, so each of its agents would be refused"
            raise found(file, "crl_missing", why, "append that authority's list, in PEM form")
    numbers = {key: _number(crl) for key, crl in lists.items()}
    for key, number in numbers.items():
        if before is not None and number < before.numbers.get(key, 0):
            why = f"has the number {number}, and {before.numbers[key]} is in force"
            raise found(file, "crl_older", why, "fetch the authority's newest list")
    return RevocationLists(
        pem=b"".join(crl.public_bytes(Encoding.PEM) for crl in lists.values()),
        revoked=frozenset(
            name
            for crl in lists.values()
            for name in certificate_ids(crl.issuer.public_bytes(), (entry.serial_number for entry in crl))
        ),
        last_update=min(crl.last_update_utc.timestamp() for crl in lists.values()),
        next_update=min(_end(crl).timestamp() for crl in lists.values()),
        numbers=numbers,
    )


def key_of(certificate: x509.Certificate) -> bytes:
    """Return the public key in DER: what tells two authorities of one name apart, and a renewed one from none."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _parsed(file: Path) -> list[x509.CertificateRevocationList]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise FoundError(unreadable(file, error)) from None
    try:
        blocks = _BLOCK.findall(data)
        lists = (
            [x509.load_pem_x509_crl(block) for block in blocks]
            if blocks
            else ([] if data.startswith(b"-----") else [x509.load_der_x509_crl(data)])
        )
        for crl in lists:
            # Read now, so that a list that can't be read whole is refused here and nowhere later.
            for extension in crl.extensions:
                if extension.oid == x509.DeltaCRLIndicator.oid:
                    raise found(file, "crl_malformed", "is a delta list", "name the authority's complete list")
    except ValueError:
        lists = []
    if not lists:
        raise found(file, "crl_malformed", "holds no revocation list in PEM or DER form", "fetch it anew")
    return lists


def _latest(
    signed: Iterable[tuple[x509.CertificateRevocationList, x509.Certificate]],
) -> dict[bytes, x509.CertificateRevocationList]:
    """Return the newest list of each authority, by the authority's key; OpenSSL takes the newest too."""
    newest: dict[bytes, x509.CertificateRevocationList] = {}
    for crl, signer in signed:
        known = newest.get(key_of(signer))
        if known is None or known.last_update_utc < crl.last_update_utc:
            newest[key_of(signer)] = crl
    return newest


def _signer(
    file: Path, crl: x509.CertificateRevocationList, authorities: Sequence[x509.Certificate]
) -> x509.Certificate:
    for authority in authorities:
        if authority.subject == crl.issuer and _may_sign_lists(authority) and _signed(crl, authority):
            return authority
    why = f"the list of {crl.issuer.rfc4514_string()!r} is signed by no authority of tls.client_ca"
    raise found(file, "crl_foreign", why, "add that authority to tls.client_ca, or fetch the list anew")


def _may_sign_lists(authority: x509.Certificate) -> bool:
    try:
        return authority.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        # Without a key usage the key may be used for everything (RFC 5280 §4.2.1.3).
        return True


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # Keys that can't sign raise.
    except (TypeError, ValueError):
        return False


def _check_dates(file: Path, crl: x509.CertificateRevocationList, *, now: float, keep_stale: bool) -> None:
    name = crl.issuer.rfc4514_string()
    if now < crl.last_update_utc.timestamp():
        why = f"the list of {name!r} begins at {crl.last_update_utc:%Y-%m-%dT%H:%M:%SZ}"
        raise found(file, "crl_not_yet_valid", why, "compare the clock of this machine")
    if now >= _end(crl).timestamp() and not keep_stale:
        why = f"the list of {name!r} ended at {_end(crl):%Y-%m-%dT%H:%M:%SZ}, so each of its agents would be refused"
        raise found(file, "crl_stale", why, "fetch the authority's newest list, or set tls.on_stale_crl to keep")


def _number(crl: x509.CertificateRevocationList) -> int:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def _end(crl: x509.CertificateRevocationList) -> datetime:
    # A list without an end is refused by RFC 5280 §5.1.2.5; it has ended when it began.
    return crl.next_update_utc or crl.last_update_utc
