"""The table of ways to log in: a section of the settings, and what it makes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from broker.errors import SettingsInvalidError
from broker.providers.base import UpstreamObserver
from broker.providers.own_variables import OwnVariables
from broker.providers.vault.logins.approle import AppRoleLogin
from broker.providers.vault.logins.aws import AwsLogin
from broker.providers.vault.logins.bearer import JwtLogin, KubernetesLogin
from broker.providers.vault.logins.certificate import CertificateLogin
from broker.providers.vault.logins.method import CredentialReader, LoginMethod
from broker.providers.vault.logins.settings import AppRoleSettings, AuthSettings
from broker.providers.vault.logins.token_file import TokenFileLogin
from broker.providers.vault.logins.userpass import UserpassLogin
from broker.providers.vault.logins.wrapping import WrappingToken


def login_method(settings: AuthSettings, *, observer: UpstreamObserver, own: OwnVariables) -> LoginMethod:
    """Return the one way to log in that `settings` name.

    Raises:
        SettingsInvalidError: They name none.

    """
    token = settings.credential("token")
    if token is not None:
        return TokenFileLogin(token=token, reader=CredentialReader(section="", own=own))
    for name, make in _METHODS.items():
        section = getattr(settings, name)
        if section is not None:
            return make(section, CredentialReader(section=name, own=own), observer)
    message = "providers.vault.auth: names no way to log in"
    raise SettingsInvalidError(message)


def _wrapping(settings: AppRoleSettings, observer: UpstreamObserver) -> WrappingToken | None:
    if settings.credential("wrapped_secret_id") is None:
        return None
    path = f"auth/{settings.mount}/role/{settings.role_name}/secret-id"
    return WrappingToken(creation_path=path, observer=observer)


# A section of `auth`, and what makes its way to log in.
_METHODS: Final[Mapping[str, Callable[[Any, CredentialReader, UpstreamObserver], LoginMethod]]] = MappingProxyType(
    {
        "approle": lambda section, reader, observer: AppRoleLogin(
            settings=section, reader=reader, wrapping=_wrapping(section, observer)
        ),
        "certificate": lambda section, *_: CertificateLogin(settings=section),
        "jwt": lambda section, reader, _: JwtLogin(settings=section, reader=reader),
        "kubernetes": lambda section, reader, _: KubernetesLogin(settings=section, reader=reader),
        "aws": lambda section, reader, _: AwsLogin(settings=section, reader=reader),
        "unsafe_userpass": lambda section, reader, _: UserpassLogin(settings=section, reader=reader),
    }
)
