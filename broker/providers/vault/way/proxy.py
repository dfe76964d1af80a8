"""The proxy on the way to the store, and the addresses that need none."""

import base64
import importlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import aiohttp
from pydantic import Field, field_validator

from broker.errors import SourceUnavailableError
from broker.providers.own_variables import OwnVariables
from broker.providers.vault.places import CredentialSection, Located, Place, read_place
from broker.secret import SecretValue

_SUFFIX: Final = re.compile(r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_SETTING: Final = "providers.vault.proxy"


class ProxySettings(CredentialSection):
    """A proxy between the broker and the store; nothing is taken from the environment."""

    address: str = Field(description="`http://`, `https://` or `socks5://` with host and port.")
    credentials: Place | None = Field(
        default=None,
        description="Where `name:password` for the proxy stands: `${NAME}` of `providers.env.own_names`, or "
        "the absolute path of a file of mode 0600 or 0400. Followed when it changes.",
    )
    credentials_file: Path | None = Field(default=None, description="Instead: the path of that file.")
    resolve_names: Literal["proxy", "broker"] = Field(
        default="proxy", description="Who resolves the store's name for SOCKS5; an HTTP proxy always does."
    )
    no_proxy: tuple[str, ...] = Field(
        default=(),
        description="Hosts that are reached without it: names, suffixes (`.svc`), addresses, ranges (`10.0.0.0/8`).",
    )

    @field_validator("address")
    @classmethod
    def _safe_address(cls, address: str) -> str:
        message = "the proxy is http://, https:// or socks5:// with host:port; credentials stand in credentials"
        try:
            parts = urlsplit(address)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError(message) from None
        rest = parts.path.strip("/") or parts.query or parts.fragment or "@" in address
        plain = address.isascii() and address.isprintable() and " " not in address
        if parts.scheme not in {"http", "https", "socks5"} or not host or not port or rest or not plain:
            raise ValueError(message)
        return address.rstrip("/")

    @field_validator("no_proxy")
    @classmethod
    def _known_forms(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            if _network(entry) is None and not _SUFFIX.fullmatch(entry):
                message = "an entry is a host, a suffix, an address or a range; no port, no *"
                raise ValueError(message)
        return entries

    def serves(self, address: str) -> bool:
        """Tell whether the store at `address` is reached through the proxy."""
        host = (urlsplit(address).hostname or "").rstrip(".")
        place = _network(host)
        return not any(_matches(entry, host, place) for entry in self.no_proxy)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLogin:
    """Name and password for the proxy."""

    name: str
    password: SecretValue

    @property
    def headers(self) -> Mapping[str, str]:
        """Return what an HTTP proxy is sent when the tunnel is asked for."""
        pair = base64.b64encode(self.name.encode() + b":" + self.password.reveal()).decode()
        return {"Proxy-Authorization": f"Basic {pair}"}


def read_proxy_login(credential: Located, *, own: OwnVariables) -> ProxyLogin:
    """Return the credentials for the proxy. Blocks.

    Raises:
        SourceUnavailableError: It can't be used; names the setting.

    """
    setting = f"{_SETTING}.{credential.setting}"
    text = read_place(credential.place, setting=setting, own=own)
    try:
        name, colon, password = text.decode().strip().partition(":")
    except UnicodeDecodeError:
        name = colon = password = ""
    if not name or not colon or not password or not (name + password).isprintable():
        message = f"{setting}: holds no name:password in one line"
        raise SourceUnavailableError(message)
    return ProxyLogin(name=name, password=SecretValue.from_bytes(password.encode()))


def socks_connector(settings: ProxySettings, login: ProxyLogin | None, **options: Any) -> aiohttp.TCPConnector:  # noqa: ANN401  aiohttp's own options.
    """Return a connector whose connections all go through a SOCKS5 proxy.

    Raises:
        SourceUnavailableError: The library for SOCKS is not installed.

    """
    try:
        socks = importlib.import_module("broker.providers.vault.way.socks")
    except ImportError:
        message = f"{_SETTING}.address: SOCKS5 needs the extra: pip install logflux-broker[socks]"
        raise SourceUnavailableError(message) from None
    parts = urlsplit(settings.address)
    return cast(
        "aiohttp.TCPConnector",
        socks.SocksConnector(
            host=parts.hostname,
            port=parts.port,
            username=login.name if login else None,
            password=login.password.reveal().decode() if login else None,
            rdns=settings.resolve_names == "proxy",
            **options,
        ),
    )


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _matches(entry: str, host: str, place: ipaddress.IPv4Network | ipaddress.IPv6Network | None) -> bool:
    network = _network(entry)
    if network is not None:
        return place is not None and place.version == network.version and place.subnet_of(network)  # type: ignore[arg-type]  # The versions are equal.
    suffix = entry.strip(".").lower()
    return place is None and (host == suffix or host.endswith(f".{suffix}"))
