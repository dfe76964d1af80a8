"""What of the store's settings would fail after the start, found without asking the store."""

import time
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from broker.errors import SourceUnavailableError
from broker.finding import Finding, FoundError, Severity
from broker.key_file import read_private, unreadable
from broker.providers.vault.credential import read_credential
from broker.providers.vault.settings import AuthSettings, VaultSettings


def examine_vault(settings: VaultSettings) -> Iterator[Finding]:
    """Find a credential that can't be read, and authorities of the store that can't be used. Blocks."""
    yield from _examine_credential(settings.auth)
    if settings.ca_file is not None:
        yield from _examine_authorities(settings.ca_file)


def _examine_credential(auth: AuthSettings) -> Iterator[Finding]:
    secret = auth.token_file if auth.approle is None else auth.approle.secret_id_file
    try:
        # By itself first: its error names the file, where that of a login names the setting only.
        if secret is not None:
            read_private(secret)
        read_credential(auth)
    except FoundError as error:
        yield error.finding
    except SourceUnavailableError as error:
        where, _, why = error.detail.partition(": ")
        yield Finding(code="store_credential", where=where, why=why, fix="put a good credential in its file")


def _examine_authorities(file: Path) -> Iterator[Finding]:
    try:
        authorities = x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        yield unreadable(file, error)
        return
    except ValueError:
        why = "holds no certificate in PEM form"
        yield Finding(code="store_ca_malformed", where=str(file), why=why, fix="name the store's authorities")
        return
    ended = [each for each in authorities if each.not_valid_after_utc.timestamp() < time.time()]
    if ended:
        last = max(each.not_valid_after_utc for each in ended)
        yield Finding(
            code="store_ca_expired",
            where=str(file),
            why=f"an authority of the store expired at {last:%Y-%m-%dT%H:%M:%SZ}",
            fix="put the store's new authority there",
            severity=Severity.ERROR if len(ended) == len(authorities) else Severity.WARNING,
        )
