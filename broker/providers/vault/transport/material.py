"""What the way to the store needs from files: authorities, certificates with their keys, the proxy's password."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from broker.providers.own_variables import OwnVariables
from broker.providers.vault.places import Located, Variable
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.way.proxy import ProxyLogin, read_proxy_login
from broker.providers.vault.way.trust import TrustStore
from broker.providers.vault.way.watched_files import WatchedFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What was read; `identified` shows the certificate of a login by certificate, and else is `common`."""

    common: ssl.SSLContext | None
    identified: ssl.SSLContext | None
    proxy_login: ProxyLogin | None


class MaterialFiles:
    """Read the files, and tell when they have changed. Everything here blocks."""

    def __init__(self, *, settings: VaultSettings, own: OwnVariables) -> None:
        """Keep the settings; nothing is read."""
        self._settings = settings
        self._own = own
        shown, login = settings.client_certificate, settings.auth.certificate
        self._proxy_login = settings.proxy.credential("credentials") if settings.proxy else None
        self._files = WatchedFiles(
            [
                settings.ca_file,
                *((shown.certificate_file, shown.key_file) if shown else ()),
                *((login.certificate_file, login.key_file) if login else ()),
                *_files_of(self._proxy_login, own),
            ]
        )

    def changed(self) -> bool:
        """Return whether any file differs from the last call; true at the first."""
        return self._files.changed()

    def read(self) -> Material:
        """Return what the files hold now.

        Raises:
            SourceUnavailableError: A file can't be used; names the setting, not the path.

        """
        settings = self._settings
        proxy = settings.proxy
        login = read_proxy_login(self._proxy_login, own=self._own) if self._proxy_login else None
        if not settings.uses_tls:
            return Material(common=None, identified=None, proxy_login=login)
        over_tls = proxy is not None and proxy.address.startswith("https://")
        trust = TrustStore(
            ca_file=settings.ca_file,
            pins=frozenset(settings.pins),
            unpinned_host=urlsplit(proxy.address).hostname if proxy and over_tls else None,
        )
        shown, own = settings.client_certificate, settings.auth.certificate
        common = trust.context(
            certificate=shown.certificate_file if shown else None,
            key=shown.key_file if shown else None,
            section="client_certificate",
        )
        identified = common
        if own is not None:
            identified = trust.context(certificate=own.certificate_file, key=own.key_file, section="auth.certificate")
        return Material(common=common, identified=identified, proxy_login=login)


def _files_of(credential: Located | None, own: OwnVariables) -> Sequence[Path]:
    """Return the files whose change may change `credential`."""
    if credential is None:
        return ()
    return own.files if isinstance(credential.place, Variable) else (credential.place,)
