"""TLS on the broker's side: one strict context, the peer of a request, and names for failed handshakes."""

import ssl
import weakref
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, Protocol

from aiohttp import web
from cryptography import x509

from broker.errors import IdentityRefusedError, IdentityRefusedReason
from broker.identity import PeerIdentity, identity_of, require_valid
from broker.web.revocation import CertificateId, key_of

# Six suites: key exchange that keeps the past secret, and nothing but AEAD. TLS 1.3 has its own three, all AEAD.
_SUITES_OF_TLS_1_2: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_MINIMUM: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class HandshakeOutcome(StrEnum):
    """How a handshake ended: the closed set of a metric's label and of the audit's reasons."""

    OK = "ok"
    NO_CERTIFICATE = "no_certificate"
    UNKNOWN_CA = "unknown_ca"
    SELF_SIGNED = "self_signed"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    WRONG_PURPOSE = "wrong_purpose"
    REVOKED = "revoked"
    REVOCATION_UNKNOWN = "revocation_unknown"
    INVALID_CERTIFICATE = "invalid_certificate"
    PROTOCOL_VERSION = "protocol_version"
    PLAIN_HTTP = "plain_http"
    NOT_TLS = "not_tls"
    NO_SHARED_CIPHER = "no_shared_cipher"
    REFUSED_BY_PEER = "refused_by_peer"
    RESUMED = "resumed"
    TIMEOUT = "timeout"
    RESET = "reset"
    OTHER = "other"


# X509_V_ERR_* of OpenSSL; a certificate refused for any other cause is INVALID_CERTIFICATE.
_VERIFY_CODES: Final = {
    2: HandshakeOutcome.UNKNOWN_CA,
    9: HandshakeOutcome.NOT_YET_VALID,
    10: HandshakeOutcome.EXPIRED,
    18: HandshakeOutcome.SELF_SIGNED,
    19: HandshakeOutcome.UNKNOWN_CA,
    20: HandshakeOutcome.UNKNOWN_CA,
    21: HandshakeOutcome.UNKNOWN_CA,
    3: HandshakeOutcome.REVOCATION_UNKNOWN,
    11: HandshakeOutcome.REVOCATION_UNKNOWN,
    12: HandshakeOutcome.REVOCATION_UNKNOWN,
    23: HandshakeOutcome.REVOKED,
    26: HandshakeOutcome.WRONG_PURPOSE,
}
_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": HandshakeOutcome.NO_CERTIFICATE,
    "HTTP_REQUEST": HandshakeOutcome.PLAIN_HTTP,
    "HTTPS_PROXY_REQUEST": HandshakeOutcome.PLAIN_HTTP,
    "UNSUPPORTED_PROTOCOL": HandshakeOutcome.PROTOCOL_VERSION,
    "VERSION_TOO_LOW": HandshakeOutcome.PROTOCOL_VERSION,
    "WRONG_VERSION_NUMBER": HandshakeOutcome.NOT_TLS,
    "UNKNOWN_PROTOCOL": HandshakeOutcome.NOT_TLS,
    "NO_SHARED_CIPHER": HandshakeOutcome.NO_SHARED_CIPHER,
    "NO_SUITABLE_KEY_SHARE": HandshakeOutcome.NO_SHARED_CIPHER,
    "NO_SUITABLE_GROUPS": HandshakeOutcome.NO_SHARED_CIPHER,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": HandshakeOutcome.NO_SHARED_CIPHER,
    "UNEXPECTED_EOF_WHILE_READING": HandshakeOutcome.RESET,
}
# An alert that the client sent, such as TLSV1_ALERT_UNKNOWN_CA: it refuses the broker's certificate.
_ALERTS: Final = ("TLSV1_ALERT_", "TLSV13_ALERT_", "SSLV3_ALERT_")


def new_context(*, minimum: Literal["1.2", "1.3"] = "1.3") -> ssl.SSLContext:
    """Return a strict context without a certificate and without anybody whom it admits.

    It is never changed once it is in force: a new certificate or authority means a new context, because
    session tickets and everything else that a context remembers would outlive the change.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MINIMUM[minimum]
    context.set_ciphers(_SUITES_OF_TLS_1_2)
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session skips every check of the certificate. Each of these two leaves a gap without the other:
    # the number of tickets counts in TLS 1.3 only, the option in 1.2 only. The listener refuses what is left,
    # the sessions of TLS 1.2 that OpenSSL knows by their ids.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def handshake_failure_reason(error: BaseException) -> HandshakeOutcome:
    """Name what `connect_accepted_socket` raised."""
    if isinstance(error, ssl.SSLError):
        return _reason_of_openssl(error)
    # The event loops raise ConnectionAbortedError themselves when the time is up; the system's has a number.
    if isinstance(error, TimeoutError) or (isinstance(error, ConnectionAbortedError) and error.errno is None):
        return HandshakeOutcome.TIMEOUT
    return HandshakeOutcome.RESET if isinstance(error, ConnectionError) else HandshakeOutcome.OTHER


def _reason_of_openssl(error: ssl.SSLError) -> HandshakeOutcome:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_CODES.get(error.verify_code, HandshakeOutcome.INVALID_CERTIFICATE)
    if isinstance(error, ssl.SSLEOFError):
        return HandshakeOutcome.RESET
    # Only OpenSSL's own errors have it.
    reason = getattr(error, "reason", None) or ""
    if reason.startswith(_ALERTS):
        return HandshakeOutcome.REFUSED_BY_PEER
    return _REASONS.get(reason, HandshakeOutcome.OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedChain:
    """What the TLS library has verified: each certificate by issuer and serial number, and the authority's key."""

    certificates: frozenset[CertificateId]
    anchor: bytes


class Trust(Protocol):
    """Tells whether a chain that was good in the handshake still is."""

    def require_trusted(self, chain: VerifiedChain) -> None:
        """Return if it is. Raises: IdentityRefusedError."""
        ...


@dataclass(frozen=True, slots=True)
class _Peer:
    identity: PeerIdentity
    chain: VerifiedChain


class Peers:
    """Tell who is at the other end of a request's connection; a certificate is parsed once a connection."""

    def __init__(self, *, trust: Trust, allow_no_eku: bool = False) -> None:
        """Ask `trust` at each request; accept certificates without extended key usage only if `allow_no_eku`."""
        self._trust = trust
        self._allow_no_eku = allow_no_eku
        # By the connection's TLS object, which lives as long as the connection and can be referred to weakly.
        self._known: weakref.WeakKeyDictionary[ssl.SSLObject, _Peer] = weakref.WeakKeyDictionary()

    def peer_of(self, request: web.Request, *, now: float) -> PeerIdentity:
        """Return the peer, as its certificate proves it at `now`.

        Raises:
            IdentityRefusedError: It has no certificate, or one that names no identity, has expired since, was
                revoked since, or comes from an authority that was dropped since.

        """
        transport = request.transport
        connection = None if transport is None else transport.get_extra_info("ssl_object")
        if connection is None:
            message = "the connection has no client certificate, or is closed"
            raise IdentityRefusedError(message, reason=IdentityRefusedReason.NO_CERTIFICATE)
        peer = self._known.get(connection)
        if peer is None:
            peer = self._known[connection] = self._look(connection)
        require_valid(peer.identity, now=now)
        self._trust.require_trusted(peer.chain)
        return peer.identity

    def _look(self, connection: ssl.SSLObject) -> _Peer:
        leaf = connection.getpeercert(binary_form=True)
        if not leaf:
            message = "the client showed no certificate"
            raise IdentityRefusedError(message, reason=IdentityRefusedReason.NO_CERTIFICATE)
        return _Peer(identity_of(leaf, allow_no_eku=self._allow_no_eku), _chain_of(connection))


def _chain_of(connection: ssl.SSLObject) -> VerifiedChain:
    # Public from Python 3.13 on, where it returns DER.
    if hasattr(connection, "get_verified_chain"):
        encoded = connection.get_verified_chain()
    else:
        encoded = [ssl.PEM_cert_to_DER_cert(found.public_bytes()) for found in connection._sslobj.get_verified_chain()]  # type: ignore[attr-defined]  # noqa: SLF001  As above: there is no other way to it.
    chain = [x509.load_der_x509_certificate(der) for der in encoded]
    return VerifiedChain(
        certificates=frozenset((found.issuer.public_bytes(), found.serial_number) for found in chain),
        anchor=key_of(chain[-1]),
    )
