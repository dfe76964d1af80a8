"""The settings of the broker: one frozen tree; `config_source.py` reads it from a file and the environment.

Unknown keys are refused, every limit carries its unit in its name, and no field holds a secret: a
credential is named by the file that holds it. A provider's own section stays raw here; the model that
belongs to it stands beside the provider, and `assembly/implementations.py` brings the two together.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

MEBIBYTE = 1024 * 1024
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Section(BaseModel):
    """A part of the settings: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ListenSettings(Section):
    """Where agents connect."""

    host: str = Field(
        default="127.0.0.1", description="Address that agents connect to; loopback until you say otherwise."
    )
    port: Port = Field(default=8443, description="TCP port that agents connect to; 0 takes a free one.")
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="Values of the `Host` header that are answered, with their port; empty accepts every one.",
    )
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1024, description="Connections that are open at once; more wait in the kernel."
    )
    handshake_seconds: Seconds = Field(default=5.0, description="Time for a TLS handshake.")
    idle_seconds: Seconds = Field(
        default=30.0, description="Time for the head of a request, and the idle time of a kept connection."
    )
    write_seconds: Seconds = Field(
        default=30.0, description="Time for an agent to take an answer; then its connection is cut."
    )
    drain_seconds: Seconds = Field(
        default=20.0,
        description="Time for requests in flight after SIGTERM: half to answer them, half for the answers to be taken.",
    )


class OperationsSettings(Section):
    """Where the platform looks: probes and metrics, without TLS and so on loopback by default."""

    host: str = Field(default="127.0.0.1", description="Address of `/livez`, `/readyz` and `/metrics`.")
    port: Port = Field(default=9102, description="TCP port of `/livez`, `/readyz` and `/metrics`; 0 takes a free one.")


class TlsSettings(Section):
    """The broker's certificate, and who may connect."""

    certificate: Path = Field(description="PEM file with the broker's certificate and its chain.")
    key: Path = Field(description="PEM file with its private key; mode 0600 or 0400.")
    client_ca: Path = Field(description="PEM file with the certificate authorities of the agents.")
    client_crl: Path | None = Field(
        default=None,
        description="File with the revocation lists of every authority of `client_ca`, PEM (several) or DER (one).",
    )
    on_stale_crl: Literal["refuse", "keep"] = Field(
        default="refuse",
        description="What a list past its end means: `refuse` every agent, or `keep` to what it says.",
    )
    allow_no_eku: bool = Field(
        default=False,
        description="Whether an agent's certificate may have no extended key usage; else it needs clientAuth.",
    )
    minimum: Literal["1.2", "1.3"] = Field(default="1.3", description="Oldest TLS version that is spoken.")


class LimitSettings(Section):
    """What one request may ask."""

    max_references: Annotated[int, Field(ge=1, le=4096)] = Field(default=256, description="References in one request.")
    max_body_bytes: Annotated[int, Field(ge=1024, le=16 * MEBIBYTE)] = Field(
        default=256 * 1024, description="Bytes of one request's body."
    )
    max_value_bytes: Annotated[int, Field(ge=1, le=64 * MEBIBYTE)] = Field(
        default=MEBIBYTE,
        description="Bytes of one value: a file, a variable, or all values of one secret together.",
    )
    body_seconds: Seconds = Field(default=10.0, description="Time for a request's body to arrive.")
    max_bytes_in_flight: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Bytes of bodies that arrive, of what is read for requests, and of answers on their way, all at "
        "once; one identity has at most half of each. By default an eighth of the memory limit of the broker's "
        "control group, or 256 MiB (268435456) where there is none. 0: any number.",
    )
    identity_requests_per_second: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        default=200.0,
        description="Requests a second that one identity may make for long, for values, watches, tokens and its leases "
        "together; then it gets 429. Every further 2 KiB of a body count as one more. 0: any number.",
    )
    identity_burst: Annotated[int, Field(ge=1)] = Field(
        default=5_000, description="Requests that one identity may make at once, such as a fleet that starts together."
    )
    max_waiting_reads: Annotated[int, Field(ge=1)] = Field(
        default=10_000,
        description="Reads, and credentials to be made or revoked, that wait for one provider at once; more are "
        "answered 503 without waiting.",
    )
    max_waiting_reads_per_identity: Annotated[int, Field(ge=1)] = Field(
        default=1_024, description="Those of them that are one identity's. Identities are served in rotation."
    )


class CacheSettings(Section):
    """How much is remembered; for how long is the policy's to say."""

    max_entries: Annotated[int, Field(ge=0)] = Field(default=10_000, description="Sources that are remembered at once.")
    max_bytes: Annotated[int, Field(ge=0)] = Field(
        default=64 * MEBIBYTE, description="Bytes of values that are remembered at once."
    )
    fetch_seconds: Seconds = Field(default=10.0, description="Time for one read of a source.")
    negative_seconds: Annotated[float, Field(ge=0, le=60)] = Field(
        default=3.0,
        description="How long it is remembered that a secret is missing or that its store denies it; 0: not at all.",
    )
    sealed_key_file: Path | None = Field(
        default=None,
        description=(
            "File with 32 random bytes, mode 0600 or a credential of systemd. With it, what stores gave is kept sealed "
            "in `state_directory`, and serves as `stale` after a restart until they answer; without it, nothing is."
        ),
    )


class LeaseSection(Section):
    """Credentials that a store makes for one identity."""

    overlap_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=300.0, description="How long a credential lives on after its identity got the next one."
    )
    revoke_at_stop: bool = Field(
        default=True, description="Whether the broker revokes all of them when it stops; else they end by themselves."
    )
    stop_seconds: Seconds = Field(default=10.0, description="Time for that; what is left is revoked at the next start.")
    max_per_identity: Annotated[int, Field(ge=1)] = Field(
        default=256,
        description="Credentials that are handed out to one identity at once; one for each reference with parameters.",
    )


class WatchSettings(Section):
    """Agents that are told which of their secrets have changed."""

    interval_seconds: Annotated[float, Field(ge=0.1, le=3600)] = Field(
        default=30.0, description="Time between two looks at what is watched: one listing a folder, however many watch."
    )
    heartbeat_seconds: Seconds = Field(
        default=15.0, description="Time between two signs of life to an agent that watches."
    )
    write_seconds: Seconds = Field(default=30.0, description="Time for such an agent to take what was sent.")
    max_references: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=1_000, description="References in one watch."
    )
    max_watches_per_identity: Annotated[int, Field(ge=1)] = Field(
        default=1_000, description="Watches that one identity has at once."
    )
    max_sources_per_identity: Annotated[int, Field(ge=1)] = Field(
        default=2_000, description="Different secrets, files and variables in all watches of one identity together."
    )


class AuditSettings(Section):
    """The trail."""

    checkpoint_events: Annotated[int, Field(ge=1)] = Field(
        default=1000, description="Events between two signed checkpoints."
    )
    checkpoint_seconds: Seconds = Field(
        default=60.0, description="Time between two signed checkpoints, also when nothing happened."
    )


class WebhookSettings(Section):
    """Who may say by a signed webhook that secrets have changed."""

    key_files: Annotated[tuple[Path, ...], Field(max_length=4)] = Field(
        default=(),
        description=(
            "Files with the keys that sign, mode 0600: `whsec_` and 24 to 64 random bytes in base64. Several while one "
            "replaces another; none switches `POST /v1/cache/webhook` of the operations listener off."
        ),
    )
    tolerance_seconds: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=300.0, description="By how much the time of a message may differ from the broker's clock."
    )

    @field_validator("key_files")
    @classmethod
    def _distinct_names(cls, files: tuple[Path, ...]) -> tuple[Path, ...]:
        # The trail names a key by its file's name, and the second of two of one name would hide the first.
        if len({file.name for file in files}) < len(files):
            message = "two key files have the same name, by which the trail names the key; give each its own"
            raise ValueError(message)
        return files


class TracingSettings(Section):
    """Traces for OpenTelemetry; they need the extra `otel`."""

    endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s?#@]+$",
        description=(
            "Where spans go by OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`; none makes no spans. "
            "`OTEL_EXPORTER_OTLP_HEADERS` and the other variables of OpenTelemetry's exporter are heeded."
        ),
    )
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0, description="Share of requests that are traced; one with a `traceparent` follows what that says."
    )
    flush_seconds: Seconds = Field(default=5.0, description="Time for sending what is left after SIGTERM.")


class TokenSettings(Section):
    """The tokens that the broker issues."""

    lifetime_seconds: Annotated[int, Field(ge=30, le=3600)] = Field(default=300, description="Life of an access token.")
    issuer: str | None = Field(
        default=None,
        pattern=r"^https://[^\s?#]+$",
        description="The `iss` of tokens; the address of the agent listener by default.",
    )


class Settings(BaseSettings):
    """Everything that an operator can set."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, env_prefix="LOGFLUX_", env_nested_delimiter="__"
    )

    state_directory: Path = Field(
        description="Directory of the audit database and of the broker's own keys; made with mode 0700."
    )
    policy_file: Path = Field(description="The policy; read again when it changes and on SIGHUP.")
    listen: ListenSettings = Field(default_factory=ListenSettings)
    operations: OperationsSettings = Field(default_factory=OperationsSettings)
    tls: TlsSettings
    limits: LimitSettings = Field(default_factory=LimitSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    leases: LeaseSection = Field(default_factory=LeaseSection)
    watch: WatchSettings = Field(default_factory=WatchSettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    webhook: WebhookSettings = Field(default_factory=WebhookSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    providers: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="One section a provider: `env`, `file`, `vault`. What has no section is switched off.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe line that is logged; `debug` shows references, and no values either."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="How lines look: `auto` is text on a terminal and JSON elsewhere."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, and use no other source."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings
