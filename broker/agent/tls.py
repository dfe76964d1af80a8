"""TLS of the agent: what a connection needs, and in words what went wrong with it."""

import datetime as dt
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

from broker.agent.settings import ClientSettings, ClientSettingsError

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
# Of OpenSSL's x509_vfy.h.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = frozenset({62, 64})
_OTHER_AUTHORITY: Final = frozenset({18, 19, 20, 21})
_ASN1_UTC_TIME: Final = 0x17
_ASN1_VERSION: Final = 0xA0
_ASN1_LONG: Final = 0x80


def client_context(settings: ClientSettings) -> ssl.SSLContext:
    """Return what a connection to the broker needs.

    Raises:
        ClientSettingsError: A file is missing, or is not what it should be; names it.

    """
    if _BEGIN not in _read(settings.authority, "--ca"):
        message = f"--ca {settings.authority}: holds no certificate (PEM)"
        raise ClientSettingsError(message)
    try:
        context = ssl.create_default_context(cafile=str(settings.authority))
    except ssl.SSLError:
        message = f"--ca {settings.authority}: holds a certificate that can't be read; copy it anew"
        raise ClientSettingsError(message) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if _BEGIN not in _read(settings.certificate, "--cert"):
        message = f"--cert {settings.certificate}: holds no certificate (PEM)"
        raise ClientSettingsError(message)
    _read(settings.key, "--key")
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=lambda: _encrypted(settings.key))
    except ssl.SSLError as error:
        raise _unusable_pair(error, settings) from None
    return context


def _read(file: Path, flag: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        message = f"{flag} {file}: {error.strerror}"
        raise ClientSettingsError(message) from None


def _encrypted(key: Path) -> NoReturn:
    # Without an answer of ours, OpenSSL would ask for a passphrase on the terminal and wait.
    message = f"--key {key}: is encrypted, and nobody is there to give a passphrase; name an unencrypted key, mode 0600"
    raise ClientSettingsError(message)


def _unusable_pair(error: ssl.SSLError, settings: ClientSettings) -> ClientSettingsError:
    if error.reason == "KEY_VALUES_MISMATCH":
        return ClientSettingsError(
            f"--key {settings.key}: is not the key of --cert {settings.certificate}; issue or copy the two together"
        )
    return ClientSettingsError(
        f"--cert {settings.certificate} or --key {settings.key}: can't be read as a certificate and its private key"
        " (PEM); copy them anew"
    )


def failed_handshake(error: ssl.SSLError, settings: ClientSettings) -> str:
    """Return why there is no connection, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        told = error.verify_message.rstrip(".")
        told = f"{told[:1].lower()}{told[1:]}"
        return f"the certificate that {settings.url} shows is not taken: {told}; {_advice(error.verify_code, settings)}"
    reason = (error.reason or "").lower()
    if reason in {"wrong_version_number", "http_request", "record_layer_failure", "packet_length_too_long"}:
        return f"what answers at {settings.url} speaks no TLS; is this the port for agents (8443 by default)?"
    _, alert, word = reason.partition("_alert_")
    if alert and word != "protocol_version":
        return refused_certificate(settings, why=word.replace("_", " "))
    return f"no TLS with {settings.url}: {reason.replace('_', ' ') or 'the connection was cut'}"


def refused_certificate(settings: ClientSettings, *, why: str = "") -> str:
    """Return that the broker does not take this agent's certificate, and why as far as one can see from here."""
    life = _life_of(settings.certificate)
    now = dt.datetime.now(dt.UTC)
    because = f" ({why})" if why else ""
    told = f"{settings.url} does not take this agent's certificate, {settings.certificate}{because}"
    if life is not None and now > life[1]:
        return f"{told}: it ended at {life[1]:%Y-%m-%dT%H:%M:%SZ}; get a new one"
    if life is not None and now < life[0]:
        return f"{told}: it begins at {life[0]:%Y-%m-%dT%H:%M:%SZ}; is this machine's clock right?"
    return (
        f"{told}; it has to come from an authority that the broker trusts (tls.client_ca), for TLS clients, and be "
        "neither ended nor revoked; the broker's log says which"
    )


def _advice(code: int, settings: ClientSettings) -> str:
    if code in _OTHER_NAME:
        return "use a name that stands in it as --url, or have one issued for this name"
    if code in _OTHER_AUTHORITY:
        return f"--ca {settings.authority} has to hold the authority that issued it"
    if code == _EXPIRED:
        return "who runs the broker renews it; or this machine's clock is wrong"
    if code == _NOT_YET_VALID:
        return "is this machine's clock right?"
    return "who runs the broker has to issue another one"


def _life_of(file: Path) -> tuple[dt.datetime, dt.datetime] | None:
    """Return begin and end of the first certificate in `file`; None when they can't be read.

    The standard library reads no certificate, and an agent's command starts without any other.
    """
    try:
        text = file.read_text("ascii", "replace")
        end = "-----END CERTIFICATE-----"
        der = ssl.PEM_cert_to_DER_cert(text[text.index(_BEGIN.decode()) : text.index(end) + len(end)])
        # RFC 5280 §4.1: Certificate and TBSCertificate, then version, serial, algorithm and issuer before the validity.
        _, start, _ = _element(der, 0)
        _, start, _ = _element(der, start)
        tag, _, end_of_version = _element(der, start)
        at = end_of_version if tag == _ASN1_VERSION else start
        for _ in range(3):
            _, _, at = _element(der, at)
        _, start, _ = _element(der, at)
        begin, finish, *_ = _moments(der, start)
    except (OSError, ValueError, IndexError):
        return None
    return begin, finish


def _moments(der: bytes, at: int) -> Iterator[dt.datetime]:
    for _ in range(2):
        tag, start, at = _element(der, at)
        written = der[start:at].decode("ascii")
        if tag == _ASN1_UTC_TIME:
            # RFC 5280 §4.1.2.5.1: two digits of the year, 50 and more of the last century.
            written = f"{'19' if written[:2] >= '50' else '20'}{written}"
        yield dt.datetime.strptime(written, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC)


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Return tag, start of the contents and end of the DER element at `at`."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length >= _ASN1_LONG:
        start += length - _ASN1_LONG
        length = int.from_bytes(der[at + 2 : start], "big")
    return tag, start, start + length
