"""What of the store's settings would fail after the start, found without asking the store."""

import time
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from broker.errors import SourceUnavailableError
from broker.finding import Finding, Severity
from broker.providers.base import ProviderTools
from broker.providers.vault.logins.methods import login_method
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport.material import MaterialFiles


def examine_vault(settings: VaultSettings, tools: ProviderTools) -> Iterator[Finding]:
    """Find a credential that can't be read, and files of the way to the store that can't be used. Blocks."""
    try:
        login_method(settings.auth, observer=tools.observer, own=tools.own).read()
    except SourceUnavailableError as error:
        yield _unusable(error, code="store_credential", fix="put a good credential in its file")
    try:
        MaterialFiles(settings=settings, own=tools.own).read()
    except SourceUnavailableError as error:
        yield _unusable(error, code="store_files", fix="put a good file there")
    else:
        if settings.ca_file is not None and settings.uses_tls:
            yield from _ended(settings.ca_file)


def spends_credential(settings: VaultSettings) -> bool:
    """Tell whether a login uses the credential up, so that nobody may log in just to look."""
    approle = settings.auth.approle
    return approle is not None and approle.credential("wrapped_secret_id") is not None


def _unusable(error: SourceUnavailableError, *, code: str, fix: str) -> Finding:
    where, _, why = error.detail.partition(": ")
    why, _, told = why.partition("; ")
    return Finding(code=code, where=where, why=why or "can't be used", fix=told or fix)


def _ended(file: Path) -> Iterator[Finding]:
    authorities = x509.load_pem_x509_certificates(file.read_bytes())
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
