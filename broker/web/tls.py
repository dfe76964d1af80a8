"""TLS on the broker's side: one strict context, the peer of a request, and names for failed handshakes."""

import ssl
import time
import weakref
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, NamedTuple

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from broker.errors import IdentityRefusedError, IdentityRefusedReason, SettingsInvalidError
from broker.identity import PeerIdentity, identity_of, require_valid
from broker.key_file import read_private

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


class Validity(NamedTuple):
    """From when to when a certificate is valid, in wall seconds."""

    not_before: float
    not_after: float


# X509_V_ERR_* of OpenSSL; a certificate refused for any other cause is INVALID_CERTIFICATE.
_VERIFY_CODES: Final = {
    2: HandshakeOutcome.UNKNOWN_CA,
    9: HandshakeOutcome.NOT_YET_VALID,
    10: HandshakeOutcome.EXPIRED,
    18: HandshakeOutcome.SELF_SIGNED,
    19: HandshakeOutcome.UNKNOWN_CA,
    20: HandshakeOutcome.UNKNOWN_CA,
    21: HandshakeOutcome.UNKNOWN_CA,
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


def server_context(
    *, certificate: Path, key: Path, client_ca: Path, minimum: Literal["1.2", "1.3"] = "1.3"
) -> ssl.SSLContext:
    """Return a context that admits clients of `client_ca` only.

    It is never changed afterwards: a new certificate or authority means a new context, because session
    tickets and everything else that a context remembers would outlive the change. It reads files, so
    it is called at the start or in a thread.

    Raises:
        SettingsInvalidError: A file is missing, unusable, expired or open to others, or the key fits no certificate.

    """
    _check_server_certificate(certificate)
    # The gate on mode and owner. OpenSSL opens the file once more by its name.
    key_pem = read_private(key)
    _check_pair(certificate, key, key_pem)
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
    try:
        # An encrypted key would make OpenSSL ask the terminal; `_check_pair` has refused it already.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError):
        message = f"{certificate}: can't be used with the key {key}; both must be PEM and belong together"
        raise SettingsInvalidError(message) from None
    _trust(context, client_ca)
    return context


def certificate_validity(path: Path) -> Validity:
    """Return the validity of the certificate in `path` that is the first to expire.

    Raises:
        SettingsInvalidError: The file is missing, unreadable or holds no PEM certificate.

    """
    first = min(_certificates(path), key=lambda found: found.not_valid_after_utc)
    return Validity(first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp())


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


class Peers:
    """Tell who is at the other end of a request's connection; a certificate is parsed once a connection."""

    def __init__(self, *, allow_no_eku: bool = False) -> None:
        """Accept certificates without extended key usage only if `allow_no_eku`."""
        self._allow_no_eku = allow_no_eku
        # By the connection's TLS object, which lives as long as the connection and can be referred to weakly.
        self._known: weakref.WeakKeyDictionary[ssl.SSLObject, PeerIdentity] = weakref.WeakKeyDictionary()

    def peer_of(self, request: web.Request, *, now: float) -> PeerIdentity:
        """Return the peer, as its certificate proves it at `now`.

        Raises:
            IdentityRefusedError: It has no certificate, one that names no identity, or one that has expired since.

        """
        transport = request.transport
        connection = None if transport is None else transport.get_extra_info("ssl_object")
        if connection is None:
            message = "the connection has no client certificate, or is closed"
            raise IdentityRefusedError(message, reason=IdentityRefusedReason.NO_CERTIFICATE)
        identity = self._known.get(connection)
        if identity is None:
            leaf = connection.getpeercert(binary_form=True)
            if not leaf:
                message = "the client showed no certificate"
                raise IdentityRefusedError(message, reason=IdentityRefusedReason.NO_CERTIFICATE)
            identity = self._known[connection] = identity_of(leaf, allow_no_eku=self._allow_no_eku)
        require_valid(identity, now=now)
        return identity


def _trust(context: ssl.SSLContext, client_ca: Path) -> None:
    _certificates(client_ca)
    try:
        context.load_verify_locations(cafile=client_ca)
    except (OSError, ValueError):
        message = f"{client_ca}: can't be used as the authorities of the agents; it must be PEM"
        raise SettingsInvalidError(message) from None
    if not context.cert_store_stats()["x509_ca"]:
        message = f"{client_ca}: holds no certificate of an authority, so no agent could connect"
        raise SettingsInvalidError(message)


def _check_server_certificate(file: Path) -> None:
    leaf = _certificates(file)[0]
    now = time.time()
    if now > leaf.not_valid_after_utc.timestamp():
        message = f"{file}: expired at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}; issue a new certificate"
        raise SettingsInvalidError(message)
    if now < leaf.not_valid_before_utc.timestamp():
        start = f"{leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
        message = f"{file}: is not valid before {start}; compare the clock of this machine"
        raise SettingsInvalidError(message)


def _check_pair(certificate: Path, key: Path, key_pem: bytes) -> None:
    try:
        private = serialization.load_pem_private_key(key_pem, password=None)
    except TypeError:
        message = f"{key}: is encrypted, and the broker has nobody to ask; store it without a passphrase, mode 0600"
        raise SettingsInvalidError(message) from None
    except Exception:  # noqa: BLE001  The library raises errors of many kinds, and each means the same here.
        message = f"{key}: holds no private key in PEM form that can be used"
        raise SettingsInvalidError(message) from None
    if private.public_key() != _certificates(certificate)[0].public_key():
        message = f"{key}: is not the key of the first certificate in {certificate}; issue or copy the two together"
        raise SettingsInvalidError(message)


def _certificates(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        message = f"{file}: {error.strerror}; name a readable PEM file with a certificate"
        raise SettingsInvalidError(message) from None
    except ValueError:
        message = f"{file}: holds no certificate in PEM form"
        raise SettingsInvalidError(message) from None
