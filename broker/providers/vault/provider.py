"""Secrets out of HashiCorp Vault or OpenBao: KV version 1 and 2, told apart by the broker, and other engines."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Final

from hvac.utils import format_url

from broker.errors import (
    FetchError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.grammar import PREVIOUS
from broker.providers.base import Extension, Grip, Parent, ProviderTools, Revision
from broker.providers.vault.adapter import make_client
from broker.providers.vault.answers import (
    NOT_FOUND,
    StoreAnswerError,
    WrongEngineError,
    bad_answer,
    is_shut_place,
    read_error,
    unavailable,
)
from broker.providers.vault.clocks import ClockComparison
from broker.providers.vault.documents import reading_of
from broker.providers.vault.engine_reads import EngineReads
from broker.providers.vault.engines import call_of
from broker.providers.vault.known import KnownSources
from broker.providers.vault.latest import LatestState
from broker.providers.vault.leader import LeaderWatch
from broker.providers.vault.leasing import StoreLeases
from broker.providers.vault.login import StoreLogin
from broker.providers.vault.logins.methods import login_method
from broker.providers.vault.mounts import Mount, MountTable
from broker.providers.vault.places import require_declared
from broker.providers.vault.revisions import FolderListings
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport import StoreTransport
from broker.reference import Source
from broker.secret import Reading

__all__ = ["VaultProvider", "VaultSettings"]

# A mount may be replaced by another of the same name: a refusal is believed only when the mount was looked at lately.
_MOUNT_SECONDS: Final = 5.0
# What an absence may mean besides that the secret is gone, and how much later it is believed where the store can't be
# asked for its latest state: a standby of a healthy cluster is a tenth of a second behind.
_DOUBTFUL: Final = frozenset({MissingPart.MOUNT, MissingPart.PATH, MissingPart.VERSION})
_LAG_SECONDS: Final = 0.3
_KNOWN_SOURCES: Final = 10_000
# Written by habit; the broker adds what the engine wants.
_API_PREFIXES: Final = ("data/", "metadata/")
# A standby serves reads: 429 in OpenBao, 473 in Vault. Whether it really does is for the token's look-up to prove.
_STANDBY: Final = frozenset({429, 473})


class VaultProvider:
    """Read secrets of one store."""

    def __init__(self, *, settings: VaultSettings, tools: ProviderTools) -> None:
        """Prepare; nothing is read and nothing is sent before the first use.

        Raises:
            SettingsInvalidError: They name a variable that is not declared.

        """
        require_declared(settings, tools.own, where="providers.vault")
        self._settings = settings
        self._clock = tools.clock
        self._limit = tools.max_value_bytes
        self._transport = StoreTransport(settings=settings, own=tools.own, clock=tools.clock, observer=tools.observer)
        self._login = StoreLogin(
            settings=settings,
            method=login_method(settings.auth, observer=tools.observer, own=tools.own),
            transport=self._transport,
            clock=tools.clock,
        )
        self._leases = StoreLeases(settings=settings, login=self._login, transport=self._transport, clock=tools.clock)
        self._mounts = MountTable(ask=self._look, clock=tools.clock)
        self._listings = FolderListings(get=self._get, mount_of=self._mounts.of, clock=tools.clock)
        self._known = KnownSources(limit=_KNOWN_SOURCES)
        self._leader = LeaderWatch(login=self._login, clock=tools.clock, seconds=settings.leader_seconds)
        self._latest = LatestState(login=self._login, transport=self._transport, clock=tools.clock)
        self._engines = EngineReads(
            login=self._login, leases=self._leases, clock=tools.clock, limit=tools.max_value_bytes
        )
        self._clocks = ClockComparison(clock=tools.clock, observer=tools.observer)

    def check(self, source: Source) -> None:
        """Refuse nothing: what a path may be asked for depends on the engine behind it, which the store knows."""

    async def fetch(self, source: Source) -> Reading:
        """Return one version of one secret, with all its fields, or what another engine answers to a read.

        Raises:
            SourceMintsError: The engine would make something new; nothing was sent but the look at the mount.
            SecretMissingError: Mount, path or version is absent, or the version was deleted or destroyed.
            UpstreamDeniedError: The store denies it, and the broker's token is good.
            SecretUnusableError: The reference asks what the engine can't do, or refuses.
            SourceUnavailableError: The store can't answer now.

        """
        self._leader.check()
        try:
            reading = await self._believed(source, self._read)
        except SecretMissingError as error:
            if error.part not in _DOUBTFUL:
                raise
            reading = await self._read_again(source, error)
        self._known.add(source)
        return reading

    async def _read_again(self, source: Source, absence: SecretMissingError) -> Reading:
        """Return what is there after all. A node may lag behind, and the mount may be another one by now."""
        was_there = source in self._known
        if not await self._latest.reach():
            if not was_there:
                raise absence
            await asyncio.sleep(_LAG_SECONDS)
        self._known.forget(source)
        return await self._believed(source, self._read, mount_seconds=0.0 if was_there else _MOUNT_SECONDS)

    async def prepare(self, source: Source) -> Parent:
        """Return what a lease of `source` shall hang on. Raises: as `Leasing.prepare`."""
        call_of(await self._mount_of(source), source)
        return await self._leases.prepare()

    async def mint(self, source: Source, parent: Parent) -> Reading:
        """Return what the engine makes for one asker. Raises: as `Leasing.mint`."""
        return await self._believed(source, lambda mount, source: self._engines.mint(mount, source, parent))

    async def renew(self, grip: Grip, *, seconds: float) -> Extension:
        """Ask for `seconds` of life from now. Raises: as `Leasing.renew`."""
        return await self._leases.renew(grip, seconds=seconds)

    async def look_up(self, grip: Grip) -> float:
        """Return the seconds that the lease has left. Raises: as `Leasing.look_up`."""
        return await self._leases.look_up(grip)

    async def revoke(self, grip: Grip) -> None:
        """Return when the lease is gone. Raises: as `Leasing.revoke`."""
        await self._leases.revoke(grip)

    async def _believed(
        self,
        source: Source,
        read: Callable[[Mount, Source], Awaitable[Reading]],
        *,
        mount_seconds: float = _MOUNT_SECONDS,
    ) -> Reading:
        """Return what `read` returns; believe a refusal when the mount was looked at within `mount_seconds` before."""
        began = self._clock.monotonic()
        mount = await self._mount_of(source)
        try:
            return await read(mount, source)
        except WrongEngineError as error:
            if mount.looked_at >= began:
                raise
            refusal: FetchError = error
        except (SecretMissingError, UpstreamDeniedError, SecretUnusableError) as error:
            if mount.looked_at >= began - mount_seconds:
                raise
            refusal = error
        current = await self._look_again(mount, source, refusal)
        if current.is_same(mount):
            raise refusal
        return await read(current, source)

    async def revisions(self, sources: Collection[Source]) -> Mapping[Source, Revision]:
        """Return the revisions of those of `sources` that a listing of their folder tells, without their values.

        Raises:
            SourceUnavailableError: The store can't answer now.

        """
        return await self._listings.revisions(sources)

    async def ping(self) -> None:
        """Return when the store could serve a read: it is up and unsealed, and takes the broker's token.

        Raises:
            SourceUnavailableError: It could not.

        """
        if self._transport.is_away:
            # The probe: a healthy document is no proof that reads are served, and a good token is.
            await self._prove()
        client = make_client(settings=self._settings, transport=self._transport, token=None)
        # Health is a matter of the server: in a namespace it answers 400.
        client.adapter.namespace = None
        standby = False
        began = self._clocks.begin()
        try:
            health = await client.adapter.get("/v1/sys/health")
        except StoreAnswerError as error:
            standby, health = error.status in _STANDBY, error.document
            if not standby:
                raise unavailable(error) from None
        if not isinstance(health, dict):
            raise bad_answer()
        self._clocks.compare(began, health)
        if standby:
            await self._transport.prefer_active()
            await self._leader.look(client)
        else:
            self._leader.leads()
        try:
            await self._login.prove()
        except StoreAnswerError as error:
            raise unavailable(error) from None
        except SourceUnavailableError as error:
            if standby:
                message = f"the store is a standby without a working leader: {error.detail}"
                raise SourceUnavailableError(message, retry_after=error.retry_after) from None
            raise

    async def reach(self, path: str) -> None:
        """Return when the broker may look at `path` in the store, whose mount holds secrets; reads no secret.

        Raises:
            UpstreamDeniedError: Nothing is mounted there, or the broker has no right to anything below it.
            SourceUnavailableError: The store can't be asked.

        """
        # A path that is the mount's own says that it is there.
        with suppress(SecretMissingError):
            await self._mounts.of(path)

    async def aclose(self) -> None:
        """End the renewal and close the session; a second call does nothing."""
        await self._latest.aclose()
        await self._login.aclose()
        await self._mounts.aclose()
        await self._transport.aclose()

    async def _prove(self) -> None:
        try:
            await self._login.prove(recent_proof_will_do=False)
        except StoreAnswerError as error:
            raise unavailable(error) from None

    async def _look(self, path: str) -> dict[str, Any]:
        try:
            return await self._get(path)
        except StoreAnswerError as error:
            raise unavailable(error) from None

    async def _mount_of(self, source: Source) -> Mount:
        try:
            return await self._mounts.of(source.path)
        except UpstreamDeniedError:
            # The store does not tell a mount that is not there from one without a right. Its path may, to a token
            # whose policy covers it.
            if await self._nothing_is_mounted(source.path):
                raise WrongEngineError from None
            message = "the store denies the broker this path, or nothing is mounted there"
            raise UpstreamDeniedError(message) from None

    async def _nothing_is_mounted(self, path: str) -> bool:
        try:
            await self._get(format_url("/v1/{}", path), mount=path.partition("/")[0])
        except StoreAnswerError as error:
            if is_shut_place(error.status, error.document):
                # Nobody's rights can be seen in a namespace that is shut, and none is denied there.
                raise unavailable(error) from None
            return error.status == NOT_FOUND and error.says("no handler for route")
        except UpstreamDeniedError:
            return False
        return False

    async def _look_again(self, mount: Mount, source: Source, refusal: FetchError) -> Mount:
        try:
            return await self._mounts.again(mount, source.path)
        except UpstreamDeniedError:
            if isinstance(refusal, WrongEngineError):
                message = "the secrets engine that was mounted there is gone"
                raise SourceUnavailableError(message) from None
            raise refusal from None

    async def _read(self, mount: Mount, source: Source) -> Reading:
        if not mount.is_kv:
            return await self._engines.read(mount, source)
        if source.parameters:
            message = "the mount is a KV engine, which takes no parameters; only version and decode may follow the ?"
            raise SecretUnusableError(message)
        if mount.version == 1:
            if source.version is not None:
                message = "the mount is KV version 1, which keeps no versions; leave out ?version"
                raise SecretUnusableError(message)
            document = await self._ask(mount, format_url("/v1/{}/{}", mount.path, mount.below(source.path)), None)
            return reading_of(document, document.get("data"), limit=self._limit)
        below = mount.below(source.path)
        version = await self._previous(mount, below) if source.version == PREVIOUS else source.version
        document = await self._read_version(mount, below, version)
        envelope = document.get("data")
        if not isinstance(envelope, dict) or not isinstance(envelope.get("metadata"), dict):
            raise bad_answer()
        # A secret written as null is an empty one.
        fields = {} if envelope.get("data") is None else envelope["data"]
        return reading_of(document, fields, limit=self._limit, metadata=envelope["metadata"])

    async def _previous(self, mount: Mount, below: str) -> int:
        """Return the number of the version before the current one."""
        document = await self._read_version(mount, below, None)
        envelope = document.get("data")
        metadata = envelope.get("metadata") if isinstance(envelope, dict) else None
        version = metadata.get("version") if isinstance(metadata, dict) else None
        if not isinstance(version, int):
            raise bad_answer()
        if version <= 1:
            message = "the secret has one version, and none before it"
            raise SecretMissingError(message, part=MissingPart.VERSION)
        return version - 1

    async def _read_version(self, mount: Mount, below: str, version: int | None) -> dict[str, Any]:
        path = format_url("/v1/{}/data/{}", mount.path, below)
        try:
            return await self._ask(mount, path, version)
        except (SecretMissingError, UpstreamDeniedError) as error:
            if below.startswith(_API_PREFIXES) and not isinstance(error, WrongEngineError):
                prefix = below.partition("/")[0]
                message = f"the mount is KV version 2, where the broker adds {prefix}/ by itself; leave out {prefix}/"
                raise SecretMissingError(message, part=MissingPart.PATH) from None
            if getattr(error, "part", None) is not MissingPart.VERSION:
                raise
            refusal = error
        # The store says the same of an absent version and of an absent secret; only the current version tells.
        try:
            await self._ask(mount, path, None)
        except SecretMissingError as error:
            if error.part is MissingPart.PATH:
                raise
        raise refusal

    async def _ask(self, mount: Mount, path: str, version: int | None) -> dict[str, Any]:
        try:
            return await self._get(path, {"version": str(version)} if version is not None else None, mount=mount.path)
        except StoreAnswerError as error:
            raise read_error(error, versioned=version is not None) from None

    async def _get(self, path: str, params: dict[str, str] | None = None, *, mount: str = "") -> dict[str, Any]:
        document = await self._login.call(
            lambda client: client.adapter.get(path, params=params, repeatable=True, mount=mount)
        )
        if not isinstance(document, dict):
            raise bad_answer()
        return document
