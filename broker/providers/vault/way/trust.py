"""TLS towards the store: whom the broker believes, and what it shows of itself."""

import base64
import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import Field

from broker.errors import SettingsInvalidError, SourceUnavailableError
from broker.key_file import read_private
from broker.providers.vault.exchange.failures import PinMismatchError
from broker.providers.vault.section import Section

_PIN_PREFIX: Final = "sha256/"
_KEY_MARK: Final = b"PRIVATE KEY-----"

Pin = Annotated[str, Field(pattern=r"^sha256/[A-Za-z0-9+/]{43}=$")]


class ClientCertificateSettings(Section):
    """What the broker shows on every connection."""

    certificate_file: Path = Field(description="PEM file with the certificate that the broker shows, and its chain.")
    key_file: Path = Field(description="PEM file with its key, mode 0600 or 0400.")


class TrustStore:
    """Make TLS contexts out of the files as they are now. Everything here blocks."""

    def __init__(self, *, ca_file: Path | None, pins: frozenset[str], unpinned_host: str | None) -> None:
        """Believe the authorities in `ca_file`, the system's when it is None, and only the pinned keys if there are.

        `unpinned_host` is an https proxy on the way, whose TLS comes through the same contexts with a key of its own.
        """
        self._ca_file = ca_file
        self._pins = frozenset(key_of(pin) for pin in pins)
        self._unpinned_host = unpinned_host

    def context(self, *, certificate: Path | None = None, key: Path | None = None, section: str) -> ssl.SSLContext:
        """Return a context that shows `certificate`, whose settings are `providers.vault.<section>`.

        Raises:
            SourceUnavailableError: A file can't be used; names the setting, not the path.

        """
        context = self._authorities()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._pins:
            context.sslobject_class = _pinned(self._pins, self._unpinned_host)
        if certificate is not None and key is not None:
            _show(context, certificate, key, f"providers.vault.{section}")
        return context

    def _authorities(self) -> ssl.SSLContext:
        if self._ca_file is None:
            return ssl.create_default_context()
        setting = "providers.vault.ca_file"
        bundle = _read(self._ca_file, setting, Path.read_bytes)
        if _KEY_MARK in bundle:
            # A key in a file that is made to be handed around has been seen by others.
            message = f"{setting}: holds a private key; leave only the certificates of the authorities there"
            raise SourceUnavailableError(message)
        try:
            # OpenSSL would skip a damaged certificate behind a good one.
            x509.load_pem_x509_certificates(bundle)
            return ssl.create_default_context(cadata=bundle.decode("ascii"))
        except ValueError:
            message = f"{setting}: holds no PEM certificate, or a damaged one"
        except ssl.SSLError:
            message = f"{setting}: holds a certificate that OpenSSL does not take"
        raise SourceUnavailableError(message)


def key_of(pin: str) -> bytes:
    """Return the hash of the public key that a pin names."""
    return base64.b64decode(pin.removeprefix(_PIN_PREFIX))


def spki_pin(certificate: bytes) -> str:
    """Return the pin of a DER certificate: the hash of its public key, which a renewal may keep."""
    return _PIN_PREFIX + base64.b64encode(_spki(certificate)).decode()


def _spki(certificate: bytes) -> bytes:
    key = x509.load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _pinned(pins: frozenset[bytes], unpinned_host: str | None) -> type[ssl.SSLObject]:
    class PinnedObject(ssl.SSLObject):
        """Ends the handshake with a key that is not pinned, after the certificate was verified."""

        def do_handshake(self) -> None:
            super().do_handshake()
            if unpinned_host is not None and self.server_hostname == unpinned_host:
                return
            certificate = self.getpeercert(binary_form=True)
            if certificate is None or _spki(certificate) not in pins:
                message = "the key is not pinned"
                raise PinMismatchError(message)

    return PinnedObject


def _show(context: ssl.SSLContext, certificate: Path, key: Path, section: str) -> None:
    _read(certificate, f"{section}.certificate_file", Path.read_bytes)
    _read(key, f"{section}.key_file", read_private)
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError):
        message = f"{section}: certificate and key are no PEM, do not belong together, or the key has a password"
        raise SourceUnavailableError(message) from None


def _read(file: Path, setting: str, read: Callable[[Path], bytes]) -> bytes:
    try:
        return read(file)
    except SettingsInvalidError as error:
        raise SourceUnavailableError(error.detail.replace(str(file), setting)) from None
    except OSError as error:
        message = f"{setting}: {error.strerror}"
        raise SourceUnavailableError(message) from None
