"""Who is asking: one identity out of one certificate (SPIFFE X509-SVID, RFC 5280). Pure.

Being written; see the contract.
"""

from dataclasses import dataclass
from enum import StrEnum


class IdentityKind(StrEnum):
    """Which part of the certificate names the peer."""

    SPIFFE = "spiffe"
    DNS = "dns"
    FINGERPRINT = "fingerprint"


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """The peer of a connection, as its certificate proves it.

    Attributes:
        kind: Where `name` comes from. FINGERPRINT (no SAN at all) counts only if policy names it.
        name: `spiffe://...`, a lower-case DNS name, or `sha256:` and 64 hex digits.
        thumbprint: `x5t#S256` of the leaf as received (RFC 8705 §3.1): 43 characters base64url.
        not_before: Start of validity, wall seconds.
        not_after: End of validity, wall seconds; asked again at each request.

    """

    kind: IdentityKind
    name: str
    thumbprint: str
    not_before: float
    not_after: float


def identity_of(certificate: bytes) -> PeerIdentity:
    """Return the identity that a DER leaf certificate names. Raises: IdentityRefusedError."""
    raise NotImplementedError
