"""Parts of a broker that its settings switch on, each made out of its section and the files that it names."""

import os
from importlib.metadata import version
from pathlib import Path

from broker.cache.sealed import KEY_BYTES, SealedFile, load_sealing_key
from broker.config import Settings, TracingSettings
from broker.errors import SettingsInvalidError
from broker.finding import found
from broker.orders.webhook import WebhookVerifier
from broker.orders.webhook_keys import read_webhook_keys
from broker.tracing import Tracing
from broker.web.tls.certificates import TlsFiles


def private_directory(directory: Path) -> None:
    """Make `directory` with mode 0700 unless it is there, and see that it can be written.

    Raises:
        SettingsInvalidError: It can't be made or written.

    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    except OSError as error:
        message = f"{directory}: {error.strerror}; state_directory must be writable for the broker"
        raise SettingsInvalidError(message) from None
    if read_only or not os.access(directory, os.W_OK | os.X_OK):
        why = "is on a read-only file system" if read_only else "Permission denied"
        message = f"{directory}: {why}; state_directory must be writable for the broker"
        raise SettingsInvalidError(message)


def tracing_of(settings: TracingSettings) -> Tracing | None:
    """Return what traces requests, None when it is switched off."""
    return None if settings.endpoint is None else Tracing(settings=settings, version=version("logflux-broker"))


def webhook_verifier(settings: Settings) -> WebhookVerifier | None:
    """Return what verifies webhooks, None when they are switched off.

    Raises:
        FoundError: A key file can't be used.

    """
    keys = read_webhook_keys(settings.webhook.key_files)
    return WebhookVerifier(keys=keys, tolerance_seconds=settings.webhook.tolerance_seconds) if keys else None


def sealed_file(settings: Settings) -> SealedFile | None:
    """Return the file of sealed values, None when it is switched off.

    Raises:
        FoundError: The key can't be used.

    """
    key_file = settings.cache.sealed_key_file
    if key_file is None:
        return None
    try:
        key = load_sealing_key(key_file)
    except ValueError as error:
        raise found(key_file, "sealing_key_unusable", f"does not hold {KEY_BYTES} bytes", str(error)) from None
    return SealedFile(file=settings.state_directory / "sealed.cache", key=key)


def tls_files(settings: Settings) -> TlsFiles:
    """Return what the settings say about the listener's files."""
    tls = settings.tls
    return TlsFiles(
        certificate=tls.certificate,
        key=tls.key,
        client_ca=tls.client_ca,
        client_crl=tls.client_crl,
        keep_stale=tls.on_stale_crl == "keep",
        minimum=tls.minimum,
    )
