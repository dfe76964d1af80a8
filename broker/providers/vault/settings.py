"""How the broker reaches its store; what proves it there stands in `logins/settings.py`."""

import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from broker.providers.vault.exchange.request import Patience
from broker.providers.vault.logins.settings import AuthSettings
from broker.providers.vault.section import MountPath, Seconds, Section, StoreName, namespace_of
from broker.providers.vault.way.proxy import ProxySettings
from broker.providers.vault.way.trust import ClientCertificateSettings, Pin, key_of

_PINS_AT_LEAST: Final = 2


class TimeoutSettings(Section):
    """Time-outs of one class of requests; what is left out is as for reads."""

    connect_seconds: Seconds | None = Field(default=None, description="As `connect_seconds`, for these requests.")
    read_seconds: Seconds | None = Field(default=None, description="As `read_seconds`, for these requests.")
    total_seconds: Seconds | None = Field(default=None, description="As `total_seconds`, for these requests.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The time-outs of one class of requests, in seconds."""

    connect_seconds: float
    read_seconds: float
    total_seconds: float

    def changed(self, other: TimeoutSettings) -> "Timeouts":
        """Return these with what `other` names."""
        return replace(self, **other.model_dump(exclude_none=True))


class VaultSettings(Section):
    """A HashiCorp Vault or OpenBao."""

    address: str | None = Field(
        default=None,
        description="Its https address; http is taken for a loopback address alone, which is for development.",
    )
    addresses: tuple[str, ...] = Field(
        default=(),
        description="Instead: its addresses by preference. One is asked at a time, and another when it fails.",
    )
    probe_seconds: Seconds = Field(
        default=5.0, description="Time between two probes of a store that is away, and of addresses that are not asked."
    )
    return_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=60.0, description="How long the first address must have been healthy before it is asked again."
    )
    leader_seconds: Seconds = Field(
        default=300.0,
        description="How long a standby that has lost its leader is believed; after that its answers are an outage.",
    )
    namespace: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_./-]+$", description="Namespace of every request; none by default."
    )
    ca_file: Path | None = Field(
        default=None,
        description="PEM file with the authorities that its certificate is checked against, several for a change; "
        "followed when it changes. The system's by default.",
    )
    client_certificate: ClientCertificateSettings | None = Field(
        default=None, description="What the broker shows where the way to the store asks for a certificate."
    )
    pins: tuple[Pin, ...] = Field(
        default=(),
        description="Public keys that it may have, as `sha256/BASE64`: the one in use and at least one in reserve.",
    )
    proxy: ProxySettings | None = Field(default=None, description="A proxy on the way.")
    auth: AuthSettings = Field(description="How the broker logs in.")
    lease_token_role: StoreName | None = Field(
        default=None,
        description="Token role of the store under whose tokens credentials are minted, so that none outlives a crash "
        "unknown; see docs/how-to/dynamic-credentials.md. By default they hang on the broker's own token.",
    )
    own_pki_mounts: tuple[MountPath, ...] = Field(
        default=(),
        description="Mounts of PKI engines that issue certificates to this broker alone. What was issued when it was "
        "killed, and it does not know, is looked for there and revoked; see docs/how-to/dynamic-credentials.md.",
    )
    connect_seconds: Seconds = Field(default=3.0, description="Time for a connection, with its look-up and handshake.")
    read_seconds: Seconds | None = Field(
        default=None, description="Time between two parts of an answer; `total_seconds` by default."
    )
    total_seconds: Seconds = Field(
        default=8.0, description="Time for one request with its answer, and for its turn before that."
    )
    login_timeouts: TimeoutSettings = Field(
        default=TimeoutSettings(), description="Time-outs of logins, renewals and look-ups of the broker's token."
    )
    health_timeouts: TimeoutSettings = Field(
        default=TimeoutSettings(), description="Time-outs of questions after health."
    )
    dns_seconds: Seconds = Field(
        default=10.0,
        description="How long a resolved name is used; after that the last good one while nobody answers. "
        "Connections are left when none of the addresses that it had is there any more.",
    )
    max_connections: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=32, description="Connections to one address that are open at once."
    )
    requests_per_second: Annotated[float, Field(gt=0, le=100_000)] = Field(
        default=200.0,
        description="Requests that it is asked at most in any second, logins and renewals included; 5 % fewer for "
        "long. After a 429 without `Retry-After` that mount is asked half as often for a while.",
    )
    max_answer_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=4 * 1024 * 1024, description="Bytes of one answer."
    )

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Return the addresses, the preferred one first."""
        return self.addresses or (str(self.address),)

    @property
    def uses_tls(self) -> bool:
        """Tell whether any address is https."""
        return any(address.startswith("https://") for address in self.endpoints)

    @property
    def timeouts(self) -> dict[Patience, "Timeouts"]:
        """Return the time-outs of each class of requests."""
        reads = Timeouts(
            connect_seconds=self.connect_seconds,
            read_seconds=self.read_seconds or self.total_seconds,
            total_seconds=self.total_seconds,
        )
        return {
            "read": reads,
            "login": reads.changed(self.login_timeouts),
            "health": reads.changed(self.health_timeouts),
        }

    @field_validator("address")
    @classmethod
    def _safe_address(cls, address: str | None) -> str | None:
        return None if address is None else safe_address(address)

    @field_validator("addresses")
    @classmethod
    def _safe_addresses(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        safe = tuple(safe_address(address) for address in addresses)
        if len(set(safe)) != len(safe):
            message = "an address stands there twice"
            raise ValueError(message)
        return safe

    @field_validator("namespace")
    @classmethod
    def _safe_namespace(cls, namespace: str | None) -> str | None:
        return None if namespace is None else namespace_of(namespace)

    @field_validator("pins")
    @classmethod
    def _spare_pin(cls, pins: tuple[str, ...]) -> tuple[str, ...]:
        # Two spellings of base64 may be one key.
        if pins and len({key_of(pin) for pin in pins}) < _PINS_AT_LEAST:
            message = "name the key in use and a spare one: with a single pin, a lost key locks the broker out"
            raise ValueError(message)
        return pins

    @model_validator(mode="after")
    def _one_way(self) -> "VaultSettings":
        if (self.address is None) == (not self.addresses):
            message = "name exactly one of address and addresses"
            raise ValueError(message)
        if (self.pins or self.client_certificate or self.auth.certificate) and not self._all_over_tls():
            message = "pins and certificates need https addresses"
            raise ValueError(message)
        proxy = self.proxy
        if proxy and any(place.startswith("http://") and proxy.serves(place) for place in self.endpoints):
            message = "an http address behind a proxy would show it the broker's token; use https, or no_proxy"
            raise ValueError(message)
        return self

    def _all_over_tls(self) -> bool:
        return all(address.startswith("https://") for address in self.endpoints)


def safe_address(address: str) -> str:
    """Return an address in its one form: scheme, host and port.

    Raises:
        ValueError: It is none, has more in it, or is http to another machine.

    """
    message = "the address is https://host:port"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(message) from None
    plain = address.isascii() and address.isprintable() and " " not in address and "\\" not in address
    if not plain or parts.scheme not in {"http", "https"} or not host:
        raise ValueError(message)
    if any(mark in address for mark in "?#@"):
        message += ", without user, query and fragment"
        raise ValueError(message)
    if parts.path.strip("/"):
        message += ", without a path: the broker adds /v1 by itself"
        raise ValueError(message)
    if parts.scheme == "http" and not _is_loopback(host):
        message = "http is taken for a loopback address alone; use https"
        raise ValueError(message)
    return address.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
