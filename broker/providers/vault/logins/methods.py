"""The table of ways to log in: a section of the settings, and what it makes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from broker.errors import SettingsInvalidError
from broker.providers.base import UpstreamObserver
from broker.providers.vault.logins.approle import AppRoleLogin
from broker.providers.vault.logins.aws import AwsLogin
from broker.providers.vault.logins.bearer import JwtLogin, KubernetesLogin
from broker.providers.vault.logins.certificate import CertificateLogin
from broker.providers.vault.logins.method import LoginMethod
from broker.providers.vault.logins.settings import AppRoleSettings, AuthSettings
from broker.providers.vault.logins.token_file import TokenFileLogin
from broker.providers.vault.logins.userpass import UserpassLogin
from broker.providers.vault.logins.wrapping import WrappingToken


def login_method(settings: AuthSettings, *, observer: UpstreamObserver) -> LoginMethod:
    """Return the one way to log in that `settings` name.

    Raises:
        SettingsInvalidError: They name none.

    """
    for name, make in _METHODS.items():
        section = getattr(settings, name)
        if section is not None:
            return make(section, observer)
    message = "providers.vault.auth: names no way to log in"
    raise SettingsInvalidError(message)


def _wrapping(settings: AppRoleSettings, observer: UpstreamObserver) -> WrappingToken | None:
    if settings.wrapped_secret_id_file is None:
        return None
    path = f"auth/{settings.mount}/role/{settings.role_name}/secret-id"
    return WrappingToken(creation_path=path, observer=observer)


# A section of `auth`, and what makes its way to log in.
_METHODS: Final[Mapping[str, Callable[[Any, UpstreamObserver], LoginMethod]]] = MappingProxyType(
    {
        "token_file": lambda file, _: TokenFileLogin(file=file),
        "approle": lambda section, observer: AppRoleLogin(settings=section, wrapping=_wrapping(section, observer)),
        "certificate": lambda section, _: CertificateLogin(settings=section),
        "jwt": lambda section, _: JwtLogin(settings=section),
        "kubernetes": lambda section, _: KubernetesLogin(settings=section),
        "aws": lambda section, _: AwsLogin(settings=section),
        "unsafe_userpass": lambda section, _: UserpassLogin(settings=section),
    }
)
