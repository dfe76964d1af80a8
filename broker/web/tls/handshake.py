"""How a TLS handshake ended: names for what Python's ssl module and the event loops raise."""

import ssl
from enum import StrEnum
from typing import Final


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
    TOO_MANY = "too_many_connections"
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
