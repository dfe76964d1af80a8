"""How the broker reaches its store, and what proves it there."""

import ipaddress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Seconds = Annotated[float, Field(gt=0, le=600)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class AppRoleSettings(_Section):
    """Login by AppRole."""

    role_id: str | None = Field(
        default=None, pattern=r"^[!-~]+$", description="The role id, which is no secret; or name `role_id_file`."
    )
    role_id_file: Path | None = Field(default=None, description="File with the role id.")
    secret_id_file: Path = Field(
        description="File with the secret id, mode 0600 or 0400; read again before each login."
    )
    mount: str = Field(
        default="approle", pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", description="Mount of the auth method."
    )

    @model_validator(mode="after")
    def _one_role(self) -> "AppRoleSettings":
        if (self.role_id is None) == (self.role_id_file is None):
            message = "name exactly one of role_id and role_id_file"
            raise ValueError(message)
        return self


class AuthSettings(_Section):
    """What proves the broker to the store: exactly one of these."""

    approle: AppRoleSettings | None = Field(default=None, description="Login by AppRole.")
    token_file: Path | None = Field(
        default=None,
        description="File with a token, mode 0600 or 0400; renewed by the broker, read again when it is refused.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "AuthSettings":
        if (self.approle is None) == (self.token_file is None):
            message = "name exactly one of approle and token_file"
            raise ValueError(message)
        return self


class VaultSettings(_Section):
    """A HashiCorp Vault or OpenBao."""

    address: str = Field(description="Its https address; http is taken for a loopback address alone.")
    namespace: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_./-]+$", description="Namespace of every request; none by default."
    )
    ca_file: Path | None = Field(
        default=None,
        description="PEM file with the authorities that its certificate is checked against; the system's by default.",
    )
    auth: AuthSettings = Field(description="How the broker logs in.")
    connect_seconds: Seconds = Field(default=3.0, description="Time for a connection, with its look-up and handshake.")
    total_seconds: Seconds = Field(
        default=8.0, description="Time for one request with its answer, and for its turn before that."
    )
    max_connections: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=32, description="Connections that are open at once."
    )
    requests_per_second: Annotated[float, Field(gt=0, le=100_000)] = Field(
        default=200.0, description="Requests a second that it is asked at most, logins and renewals included."
    )
    max_answer_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=4 * 1024 * 1024, description="Bytes of one answer."
    )

    @field_validator("address")
    @classmethod
    def _safe_address(cls, address: str) -> str:
        message = "the address is https://host:port"
        try:
            parts = urlsplit(address)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ValueError(message) from None
        plain = address.isascii() and address.isprintable() and " " not in address
        if not plain or parts.scheme not in {"http", "https"} or not host:
            raise ValueError(message)
        if "?" in address or "#" in address or "@" in address:
            message += ", without user, query and fragment"
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
