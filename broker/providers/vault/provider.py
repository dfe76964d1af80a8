"""Secrets out of HashiCorp Vault or OpenBao: KV version 1 and 2, told apart by the broker."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from hvac.utils import format_url

from broker.errors import (
    FetchError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
)
from broker.providers.base import ProviderTools
from broker.providers.vault.adapter import StoreAnswerError, StoreTransport
from broker.providers.vault.login import StoreLogin
from broker.providers.vault.settings import VaultSettings
from broker.reference import Source
from broker.secret import Reading, SecretDocument

# A mount may be replaced by another of the same name; a 404 is believed only when the mount was looked at lately.
_MOUNT_SECONDS: Final = 5.0
_MOUNTS: Final = "/v1/sys/internal/ui/mounts/"


@dataclass(frozen=True, slots=True)
class Mount:
    """A secrets engine, as the store describes it. `path` has no slash at its end."""

    path: str
    kind: str
    version: int
    looked_at: float


class VaultProvider:
    """Read secrets of one store."""

    def __init__(self, *, settings: VaultSettings, tools: ProviderTools) -> None:
        """Prepare; nothing is sent before the first read."""
        self._clock = tools.clock
        self._limit = tools.max_value_bytes
        self._transport = StoreTransport(settings=settings, clock=tools.clock, observer=tools.observer)
        self._login = StoreLogin(settings=settings, transport=self._transport, clock=tools.clock)
        self._mounts: dict[str, Mount] = {}

    def check(self, source: Source) -> None:
        """Refuse engine parameters, which only engines that mint would take.

        Raises:
            SecretUnusableError: There are some.

        """
        if source.parameters:
            message = "only KV secrets can be read, and they take no parameter but version and decode"
            raise SecretUnusableError(message)

    async def fetch(self, source: Source) -> Reading:
        """Return one version of one secret, with all its fields.

        Raises:
            SecretMissingError: Mount, path or version is absent, or the version was deleted or destroyed.
            UpstreamDeniedError: The store denies it, and the broker's token is good.
            SecretUnusableError: The path belongs to no KV engine, or asks what its engine can't do.
            SourceUnavailableError: The store can't answer now.

        """
        self.check(source)
        mount = await self._mount_of(source.path)
        try:
            return await self._read(mount, source)
        except SecretMissingError:
            if self._clock.monotonic() - mount.looked_at < _MOUNT_SECONDS:
                raise
        # The mount may have become another one since it was looked at.
        self._mounts.pop(mount.path, None)
        return await self._read(await self._mount_of(source.path), source)

    async def ping(self) -> None:
        """Return when the store takes the broker's token.

        Raises:
            SourceUnavailableError: It is away, sealed, or refuses the login.

        """
        try:
            await self._login.prove()
        except StoreAnswerError as error:
            raise _unavailable(error) from None

    async def aclose(self) -> None:
        """End the renewal and close the session; a second call does nothing."""
        await self._login.aclose()
        await self._transport.aclose()

    async def _mount_of(self, path: str) -> Mount:
        known = [mount for mount in self._mounts.values() if path.startswith(f"{mount.path}/")]
        if known:
            return max(known, key=lambda mount: len(mount.path))
        document = await self._ask(_MOUNTS + format_url("{}", path), None)
        data = document.get("data") or {}
        try:
            options = data.get("options") or {}
            mount = Mount(
                path=str(data["path"]).strip("/"),
                kind=str(data["type"]),
                version=int(options.get("version") or 1),
                looked_at=self._clock.monotonic(),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _bad_answer() from None
        if not path.startswith(f"{mount.path}/"):
            message = "the reference names a mount and no path below it"
            raise SecretMissingError(message, part=MissingPart.PATH)
        self._mounts[mount.path] = mount
        return mount

    async def _read(self, mount: Mount, source: Source) -> Reading:
        if mount.kind not in {"kv", "generic"}:
            message = f"the mount holds a {mount.kind} engine; only KV secrets can be read"
            raise SecretUnusableError(message)
        below = source.path[len(mount.path) + 1 :]
        if mount.version == 1:
            if source.version is not None:
                message = "the mount is KV version 1, which keeps no versions; leave out ?version"
                raise SecretUnusableError(message)
            document = await self._ask(format_url("/v1/{}/{}", mount.path, below), None)
            return self._reading(document, document.get("data"), None)
        params = {"version": str(source.version)} if source.version is not None else None
        document = await self._ask(format_url("/v1/{}/data/{}", mount.path, below), params)
        envelope = document.get("data")
        if not isinstance(envelope, dict) or not isinstance(envelope.get("metadata"), dict):
            raise _bad_answer()
        return self._reading(document, envelope.get("data") or {}, envelope["metadata"])

    def _reading(self, document: dict[str, Any], fields: object, metadata: dict[str, Any] | None) -> Reading:
        if not isinstance(fields, dict):
            raise _bad_answer()
        size = sum(len(str(key)) + len(str(value)) for key, value in fields.items())
        if size > self._limit:
            message = f"the secret is larger than {self._limit} bytes"
            raise SecretUnusableError(message)
        request = document.get("request_id")
        return Reading(
            document=SecretDocument.of_fields(fields, size=size),
            version=str(metadata["version"]) if metadata and "version" in metadata else None,
            not_after=_deletion_time(metadata),
            upstream_request=request if isinstance(request, str) else None,
        )

    async def _ask(self, path: str, params: dict[str, str] | None) -> dict[str, Any]:
        try:
            document = await self._login.call(lambda client: client.adapter.get(path, params=params))
        except StoreAnswerError as error:
            raise _refusal(error, versioned=params is not None, mounts=path.startswith(_MOUNTS)) from None
        if not isinstance(document, dict):
            raise _bad_answer()
        return document


def _refusal(error: StoreAnswerError, *, versioned: bool, mounts: bool) -> FetchError:
    """Return what an error status means; a 404 has several meanings, which only its body tells."""
    if error.status != 404:  # noqa: PLR2004  Not Found.
        return _unavailable(error)
    if any("namespace not found" in text for text in error.errors):
        return SourceUnavailableError("the store knows no such namespace; look at providers.vault.namespace")
    part, detail = _missing_part(error, versioned=versioned, mounts=mounts)
    return SecretMissingError(detail, part=part)


def _missing_part(error: StoreAnswerError, *, versioned: bool, mounts: bool) -> tuple[MissingPart, str]:
    envelope = error.document.get("data") if isinstance(error.document, dict) else None
    metadata = envelope.get("metadata") if isinstance(envelope, dict) else None
    if isinstance(metadata, dict):
        if metadata.get("destroyed"):
            return MissingPart.DESTROYED, "this version was destroyed"
        return MissingPart.DELETED, "this version was deleted; it can be undeleted in the store"
    if mounts or any("no handler for route" in text for text in error.errors):
        return MissingPart.MOUNT, "nothing is mounted there"
    if versioned:
        return MissingPart.VERSION, "there is no such version of this secret"
    return MissingPart.PATH, "there is no secret at this path; a KV path is written without data/"


def _unavailable(error: StoreAnswerError) -> SourceUnavailableError:
    match error.status:
        case 429:
            return SourceUnavailableError("the store limits the rate of requests", retry_after=error.retry_after or 1.0)
        case 503:
            return SourceUnavailableError("the store is sealed or in maintenance", retry_after=error.retry_after or 5.0)
        case _:
            return SourceUnavailableError(f"the store answered {error.status}", retry_after=error.retry_after)


def _bad_answer() -> SourceUnavailableError:
    return SourceUnavailableError(
        "the store's answer is not what Vault or OpenBao says; is something else listening there?"
    )


def _deletion_time(metadata: dict[str, Any] | None) -> float | None:
    """Return when this version will be deleted by the store, wall seconds; None when it will not."""
    text = metadata.get("deletion_time") if metadata else None
    if not isinstance(text, str) or not text:
        return None
    try:
        # Nanoseconds are more than Python reads; a second is enough here.
        return datetime.fromisoformat(text.split(".")[0].removesuffix("Z") + "+00:00").timestamp()
    except ValueError:
        return None
