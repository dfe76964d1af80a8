"""The files of the listener: read, checked, and turned into a context for the TLS library.

Each file is read once, and OpenSSL is given the very bytes that were checked, so that a file that is replaced
meanwhile can't slip in between.
"""

import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from broker.finding import FoundError, found
from broker.identity import key_id
from broker.key_file import read_private, unreadable
from broker.secret import SecretValue
from broker.web.tls.context import load_pair, load_trust, new_context
from broker.web.tls.revocation import RevocationLists, key_of, read_lists


class Validity(NamedTuple):
    """From when to when a certificate is valid, in wall seconds."""

    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The files of the listener, and how strict it is about them.

    Attributes:
        certificate: The broker's certificate and its chain, PEM.
        key: Its private key.
        client_ca: The authorities of the agents, PEM.
        client_crl: What they have revoked, PEM or DER; None: lists are not asked.
        keep_stale: Whether a list that has ended still counts; else it refuses everyone.
        minimum: The oldest TLS version.

    """

    certificate: Path
    key: Path
    client_ca: Path
    client_crl: Path | None = None
    keep_stale: bool = False
    minimum: Literal["1.2", "1.3"] = "1.3"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPair:
    """The broker's certificate with its chain, and its key."""

    certificates: tuple[x509.Certificate, ...]
    pem: bytes
    key: SecretValue

    @property
    def validity(self) -> Validity:
        """Return the validity of the certificate of the chain that is the first to end."""
        return _first_to_end(self.certificates)

    @property
    def digest(self) -> str:
        """Return the fingerprint of the certificate and its chain; a new key means a new certificate."""
        return hashlib.sha256(self.pem).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTrust:
    """The authorities of the agents, and what they have revoked.

    Attributes:
        authorities: Each certificate of an authority.
        pem: The same, as it was read.
        lists: What they have revoked; None: lists are not asked.
        anchors: Their keys, by `key_id`.
        valid: Those that had not ended when they were read.

    """

    authorities: tuple[x509.Certificate, ...]
    pem: bytes
    lists: RevocationLists | None
    anchors: frozenset[str]
    valid: tuple[x509.Certificate, ...]

    @property
    def revoked(self) -> frozenset[str]:
        """Return the certificates that may not be used any more, by `certificate_ids`."""
        return frozenset() if self.lists is None else self.lists.revoked

    @property
    def validity(self) -> Validity:
        """Return the validity of the authority that is the first to end, of those that had not when they were read."""
        return _first_to_end(self.valid)

    @property
    def digest(self) -> str:
        """Return what tells this from another trust."""
        return hashlib.sha256(self.pem + b"\0" + (b"" if self.lists is None else self.lists.pem)).hexdigest()


def read_certificates(file: Path) -> tuple[bytes, tuple[x509.Certificate, ...]]:
    """Return the bytes of a PEM file, and the certificates in it. Blocks.

    Raises:
        FoundError: It can't be read, or holds none.

    """
    try:
        pem = file.read_bytes()
        certificates = tuple(x509.load_pem_x509_certificates(pem))
        for certificate in certificates:
            # Read now, so that what can't be read is refused here and nowhere later.
            key_of(certificate)
            _ = certificate.extensions
    except OSError as error:
        raise FoundError(unreadable(file, error)) from None
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        why = "holds no certificate in PEM form, or one that can't be read"
        raise found(file, "certificate_malformed", why, "name a PEM file, or copy it anew") from None
    return pem, certificates


def read_pair(files: TlsFiles, *, now: float) -> ServerPair:
    """Return the broker's certificate and its key. Blocks.

    Raises:
        FoundError: A file is missing, unusable, outside its dates or open to others, or the two do not match.

    """
    certificate, key = files.certificate, files.key
    pem, certificates = read_certificates(certificate)
    leaf = certificates[0]
    if now > leaf.not_valid_after_utc.timestamp():
        why = f"expired at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        raise found(certificate, "certificate_expired", why, "issue a new certificate")
    if now < leaf.not_valid_before_utc.timestamp():
        why = f"is not valid before {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
        raise found(certificate, "certificate_not_yet_valid", why, "compare the clock of this machine")
    key_pem = read_private(key)
    try:
        private = serialization.load_pem_private_key(key_pem, password=None)
    except TypeError:
        why = "is encrypted, and the broker has nobody to ask"
        raise found(key, "key_encrypted", why, "store it without a passphrase, mode 0600") from None
    except Exception:  # noqa: BLE001  The library raises errors of many kinds, and each means the same here.
        why = "holds no private key in PEM form that can be used"
        raise found(key, "key_malformed", why, "copy it anew") from None
    if private.public_key() != leaf.public_key():
        why = f"is not the key of the first certificate in {certificate}"
        raise found(key, "key_mismatch", why, "issue or copy the two together")
    pair = ServerPair(certificates=certificates, pem=pem, key=SecretValue.from_bytes(key_pem))
    try:
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pem=pair.pem, key=pair.key)
    except (OSError, ValueError):
        why = f"can't be used with the key {key}"
        raise found(certificate, "certificate_unusable", why, "use PEM and a key that TLS takes") from None
    return pair


def read_trust(files: TlsFiles, *, now: float, before: RevocationLists | None = None) -> ClientTrust:
    """Return whom the broker admits. Blocks.

    Raises:
        FoundError: A file is missing or unusable, every authority has expired, or a list can't count.

    """
    file = files.client_ca
    pem, each = read_certificates(file)
    authorities = tuple(certificate for certificate in each if is_authority(certificate))
    if not authorities:
        why = "holds no certificate of an authority, so no agent could connect"
        raise found(file, "client_ca_none", why, "put the certificate that signs your agents' ones there")
    valid = tuple(authority for authority in authorities if now <= authority.not_valid_after_utc.timestamp())
    if not valid:
        last = max(authority.not_valid_after_utc for authority in authorities)
        why = f"its last authority expired at {last:%Y-%m-%dT%H:%M:%SZ}, so no agent could connect"
        raise found(file, "client_ca_expired", why, "put the new authority's certificate there")
    lists = None
    if files.client_crl is not None:
        lists = read_lists(files.client_crl, authorities, now=now, keep_stale=files.keep_stale, before=before)
    anchors = frozenset(key_id(key_of(authority)) for authority in authorities)
    trust = ClientTrust(authorities=authorities, pem=pem, lists=lists, anchors=anchors, valid=valid)
    try:
        load_trust(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pem=pem, lists=None if lists is None else lists.pem)
    except (OSError, ValueError):
        raise found(file, "client_ca_unusable", "can't be loaded by the TLS library", "copy it anew") from None
    return trust


def build_context(
    *, pair: ServerPair, trust: ClientTrust, minimum: Literal["1.2", "1.3"], ask_lists: bool = True
) -> ssl.SSLContext:
    """Return a context that shows `pair` and admits `trust` only, without what it revoked if `ask_lists`."""
    context = new_context(minimum=minimum)
    load_pair(context, pem=pair.pem, key=pair.key)
    load_trust(context, pem=trust.pem, lists=trust.lists.pem if ask_lists and trust.lists is not None else None)
    return context


def is_authority(certificate: x509.Certificate) -> bool:
    """Tell whether a certificate may sign others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _first_to_end(certificates: Sequence[x509.Certificate]) -> Validity:
    first = min(certificates, key=lambda each: each.not_valid_after_utc)
    return Validity(first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp())
