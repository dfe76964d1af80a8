"""Who is asking: one identity out of one certificate (SPIFFE X509-SVID, RFC 5280). Pure.

The TLS library has checked the chain, the dates and the purpose when a certificate comes here. It has not
checked the rest: two URI names, a name with a query, a leaf that is an authority all pass its handshake. So
this module is the only check of names, and it compares them as they stand: nothing is decoded or normalised,
but the case of DNS names, which have none (RFC 5280 §7.2).
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.errors import IdentityRefusedError, IdentityRefusedReason

# `\Z` and written-out classes: `$` lets a newline through, `\d` and `\w` match far more than ASCII.
_SPIFFE_ID: Final = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/[A-Za-z0-9._-]+)+\Z")
_SPIFFE_ID_LENGTH: Final = 2048
_DOT_SEGMENTS: Final = frozenset({".", ".."})
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME: Final = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]+\Z){_LABEL}\Z")
_DNS_NAME_LENGTH: Final = 253
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)


class IdentityKind(StrEnum):
    """Which part of the certificate names the peer."""

    SPIFFE = "spiffe"
    DNS = "dns"
    FINGERPRINT = "fingerprint"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedChain:
    """What the TLS library has verified, by names that prove nothing.

    Attributes:
        certificates: Each certificate of the chain as revocation lists name it (`certificate_ids`).
        anchor: The key of the authority at its end (`key_id`).

    """

    certificates: frozenset[str] = frozenset()
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """The peer of a connection, as its certificate proves it.

    Attributes:
        kind: Where `name` comes from. FINGERPRINT (no SAN at all) counts only if policy names it.
        name: `spiffe://...`, a lower-case DNS name, or `sha256:` and 64 hex digits.
        thumbprint: `x5t#S256` of the leaf as received (RFC 8705 §3.1): 43 characters base64url.
        not_before: Start of validity, wall seconds.
        not_after: End of validity, wall seconds; asked again at each request.
        chain: What proves it; empty where no connection does. It makes no other identity.

    """

    kind: IdentityKind
    name: str
    thumbprint: str
    not_before: float
    not_after: float
    chain: VerifiedChain = field(default=VerifiedChain(), compare=False, repr=False)


def identity_of(certificate: bytes, *, allow_no_eku: bool = False) -> PeerIdentity:
    """Return the identity that a DER leaf certificate names.

    Args:
        certificate: The leaf as it came over the wire, whose chain the TLS library has checked.
        allow_no_eku: Accept a certificate that has no extended key usage at all.

    Raises:
        IdentityRefusedError: It names none that the broker can use; `reason` says why.

    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        extensions = parsed.extensions
        constraints = _extension(extensions, x509.BasicConstraints)
        key_usage = _extension(extensions, x509.KeyUsage)
        purposes = _extension(extensions, x509.ExtendedKeyUsage)
        names = _extension(extensions, x509.SubjectAlternativeName)
        not_before, not_after = parsed.not_valid_before_utc.timestamp(), parsed.not_valid_after_utc.timestamp()
    except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise _refusal(IdentityRefusedReason.UNPARSABLE, "can't be read, or an extension of it can't") from None
    _check_leaf(constraints, key_usage)
    _check_purposes(purposes, allow_no_eku=allow_no_eku)
    kind, name = _name_of(names, certificate)
    if kind is IdentityKind.SPIFFE and key_usage is not None and not key_usage.critical:
        # X509-SVID §4.3 demands it of SVIDs; other authorities' certificates often leave the mark out.
        raise _refusal(IdentityRefusedReason.KEY_USAGE, "has a SPIFFE id, and a key usage that isn't marked critical")
    return PeerIdentity(
        kind=kind, name=name, thumbprint=_digest(certificate), not_before=not_before, not_after=not_after
    )


def require_valid(identity: PeerIdentity, *, now: float) -> None:
    """Refuse an identity outside its certificate's dates, for connections that outlive them.

    Raises:
        IdentityRefusedError: `now` is before the start or after the end.

    """
    if now < identity.not_before:
        raise _refusal(IdentityRefusedReason.OUTSIDE_VALIDITY, "is not valid yet; compare the clocks of both sides")
    if now > identity.not_after:
        raise _refusal(IdentityRefusedReason.OUTSIDE_VALIDITY, "has expired; connect again with a new one")


def certificate_ids(issuer: bytes, serials: Iterable[int]) -> Iterator[str]:
    """Name certificates as revocation lists do: by their serial numbers at one issuer, whose name is given in DER."""
    name = _digest(issuer)
    return (f"{serial:x}@{name}" for serial in serials)


def key_id(public_key: bytes) -> str:
    """Name an authority by its public key in DER: what tells two of one name apart, and a renewed one from none."""
    return _digest(public_key)


def _extension(extensions: x509.Extensions, kind: type[_Kind]) -> "x509.Extension[_Kind] | None":
    try:
        return extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _check_leaf(
    constraints: x509.Extension[x509.BasicConstraints] | None, key_usage: x509.Extension[x509.KeyUsage] | None
) -> None:
    if constraints is not None and constraints.value.ca:
        raise _refusal(IdentityRefusedReason.CA_CERTIFICATE, "is an authority's; an agent needs one of its own")
    if key_usage is None:
        raise _refusal(IdentityRefusedReason.KEY_USAGE, "has no key usage; issue it with digitalSignature")
    if key_usage.value.key_cert_sign or key_usage.value.crl_sign:
        raise _refusal(IdentityRefusedReason.KEY_USAGE, "may sign certificates or CRLs, which an agent's must not")
    if not key_usage.value.digital_signature:
        raise _refusal(IdentityRefusedReason.KEY_USAGE, "has a key usage without digitalSignature")


def _check_purposes(purposes: x509.Extension[x509.ExtendedKeyUsage] | None, *, allow_no_eku: bool) -> None:
    if purposes is None:
        if allow_no_eku:
            return
        raise _refusal(IdentityRefusedReason.EXTENDED_KEY_USAGE, "has no extended key usage; issue it with clientAuth")
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes.value:
        raise _refusal(IdentityRefusedReason.EXTENDED_KEY_USAGE, "has an extended key usage without clientAuth")


def _name_of(names: x509.Extension[x509.SubjectAlternativeName] | None, certificate: bytes) -> tuple[IdentityKind, str]:
    uris = [] if names is None else names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) > 1:
        raise _refusal(IdentityRefusedReason.TWO_URI_SANS, "has more than one URI name; exactly one is an identity")
    if uris:
        return IdentityKind.SPIFFE, _spiffe_id(uris[0])
    dns_names = [] if names is None else names.value.get_values_for_type(x509.DNSName)
    if len(dns_names) > 1:
        raise _refusal(IdentityRefusedReason.SEVERAL_DNS_SANS, "has several DNS names and no SPIFFE id; keep one name")
    if dns_names:
        return IdentityKind.DNS, _dns_name(dns_names[0])
    return IdentityKind.FINGERPRINT, f"sha256:{hashlib.sha256(certificate).hexdigest()}"


def _spiffe_id(uri: str) -> str:
    if not uri.startswith("spiffe://"):
        raise _refusal(IdentityRefusedReason.URI_NOT_SPIFFE, "has a URI name that does not begin with spiffe://")
    if len(uri) > _SPIFFE_ID_LENGTH or not _SPIFFE_ID.match(uri) or not _DOT_SEGMENTS.isdisjoint(uri.split("/")):
        raise _refusal(
            IdentityRefusedReason.SPIFFE_ID_MALFORMED,
            "has a malformed SPIFFE id; write spiffe://trust-domain/path, the domain in lower case, "
            "without port, query, fragment or percent signs",
        )
    return uri


def _dns_name(name: str) -> str:
    if len(name) > _DNS_NAME_LENGTH or not _DNS_NAME.match(name):
        raise _refusal(
            IdentityRefusedReason.DNS_SAN_MALFORMED,
            "has a DNS name that can't be an identity; it takes at least two labels of letters, digits and hyphens, "
            "and no wildcard",
        )
    return name.lower()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _refusal(reason: IdentityRefusedReason, what: str) -> IdentityRefusedError:
    return IdentityRefusedError(f"the client certificate {what}", reason=reason)


def identity_named(name: str) -> PeerIdentity:
    """Return an identity by its name alone, to ask a policy about; no certificate stands behind it."""
    if name.startswith("spiffe://"):
        kind = IdentityKind.SPIFFE
    elif name.startswith("sha256:"):
        kind = IdentityKind.FINGERPRINT
    else:
        kind, name = IdentityKind.DNS, name.lower()
    return PeerIdentity(kind=kind, name=name, thumbprint="", not_before=0.0, not_after=0.0)
