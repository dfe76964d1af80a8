"""Revisions of many secrets by one listing for each folder, where the store can list with details."""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Protocol

from hvac.utils import format_url

from broker.clock import Clock
from broker.errors import (
    FetchError,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.providers.base import Revision
from broker.providers.vault.engines.mounts import Mount
from broker.providers.vault.exchange.answers import NOT_FOUND, TOO_MANY, StoreAnswerError, bad_answer, unavailable
from broker.reference import Source

_PAGE: Final = 1000
# How long a store that can't or won't list is not asked to.
_UNLISTED_SECONDS: Final = 600.0
_KV_2: Final = 2


class Get(Protocol):
    """Send a GET with a good token."""

    def __call__(self, path: str, params: dict[str, str], /, *, mount: str) -> Awaitable[dict[str, Any]]:
        """Return the answer of the store, which is asked at `path` below `mount`."""
        ...


MountOf = Callable[[str], Awaitable[Mount]]


class FolderListings:
    """List folders of KV version 2; what can't be listed is left out, and its reader falls back to values."""

    def __init__(self, *, get: Get, mount_of: MountOf, clock: Clock) -> None:
        """Keep `get`, which sends a GET with a good token, and `mount_of`, which finds the engine of a path."""
        self._get = get
        self._mount_of = mount_of
        self._clock = clock
        self._unlisted: dict[str, float] = {}

    async def revisions(self, sources: Collection[Source]) -> dict[Source, Revision]:
        """Return the revision of each of `sources` that a listing tells.

        Raises:
            SourceUnavailableError: The store can't answer now, so nothing is known.

        """
        folders: dict[tuple[str, str], dict[str, Source]] = {}
        for source in sources:
            mount = await self._listed_mount(source)
            if mount is not None:
                folder, _, name = mount.below(source.path).rpartition("/")
                folders.setdefault((mount.path, folder), {})[name] = source
        found: dict[Source, Revision] = {}
        for (path, folder), names in folders.items():
            listing = await self._list(path, folder)
            if listing is not None:
                now = self._clock.now()
                found |= {source: _revision(listing.get(name), now) for name, source in names.items()}
        return found

    async def _listed_mount(self, source: Source) -> Mount | None:
        if source.version is not None or source.parameters:
            return None
        try:
            mount = await self._mount_of(source.path)
        except (SecretMissingError, SecretUnusableError, UpstreamDeniedError):
            return None
        is_listed = self._unlisted.get(mount.path, float("-inf")) <= self._clock.monotonic()
        return mount if mount.is_kv and mount.version == _KV_2 and is_listed else None

    async def _list(self, mount: str, folder: str) -> Mapping[str, Any] | None:
        path = format_url("/v1/{}/detailed-metadata/{}", mount, f"{folder}/" if folder else "")
        listing: dict[str, Any] = {}
        after = ""
        while True:
            page = {"list": "true", "limit": str(_PAGE), **({"after": after} if after else {})}
            try:
                document = await self._get(path, page, mount=mount)
            except StoreAnswerError as error:
                if error.status == NOT_FOUND and isinstance(error.document, dict) and error.errors == ():
                    return listing
                if error.status == TOO_MANY or error.status >= 500:  # noqa: PLR2004  A fault of the store.
                    raise unavailable(error) from None
                self._give_up(mount)
                return None
            except SourceUnavailableError:
                raise
            except FetchError:
                self._give_up(mount)
                return None
            try:
                keys, infos = document["data"]["keys"], document["data"]["key_info"]
                listing |= infos
            except (KeyError, TypeError, ValueError):
                # Nothing is absent because somebody else has not listed it.
                raise bad_answer() from None
            if len(keys) < _PAGE:
                return listing
            after = str(keys[-1])

    def _give_up(self, mount: str) -> None:
        self._unlisted[mount] = self._clock.monotonic() + _UNLISTED_SECONDS


def _revision(info: Any, now: float) -> Revision:  # noqa: ANN401  JSON can be anything.
    if not isinstance(info, dict):
        return Revision(version=None, mark="gone")
    version = str(info.get("current_version"))
    versions = info.get("versions")
    details = versions.get(version) if isinstance(versions, dict) else None
    details = details if isinstance(details, dict) else {}
    if details.get("destroyed") or any(moment <= now for moment in _moments(details.get("deletion_time"))):
        return Revision(version=None, mark="gone")
    return Revision(version=version, mark=f"{version} {details.get('created_time')}")


def _moments(text: object) -> Iterator[float]:
    if isinstance(text, str) and text:
        try:
            yield datetime.fromisoformat(text).timestamp()
        except ValueError:
            return
