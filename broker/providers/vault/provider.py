"""Secrets out of HashiCorp Vault or OpenBao: KV version 1 and 2, told apart by the broker, and other engines."""

from collections.abc import Awaitable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress

from broker.errors import SecretMissingError
from broker.providers.base import Extension, Grip, Parent, ProviderTools, Revision
from broker.providers.vault.engines.calls import call_of
from broker.providers.vault.engines.mounts import Mount, MountTable
from broker.providers.vault.health.health import StoreHealth
from broker.providers.vault.health.leader import LeaderWatch
from broker.providers.vault.leasing.issued import IssuedCertificates
from broker.providers.vault.leasing.leases import StoreLeases
from broker.providers.vault.logins.methods import login_method
from broker.providers.vault.own_token.login import StoreLogin
from broker.providers.vault.own_token.questions import Questions
from broker.providers.vault.places import require_declared
from broker.providers.vault.reads.belief import Belief
from broker.providers.vault.reads.engines import EngineReads
from broker.providers.vault.reads.kv import KvReads
from broker.providers.vault.reads.latest import LatestState
from broker.providers.vault.reads.revisions import FolderListings
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport.transport import StoreTransport
from broker.reference import Source
from broker.secret import Reading

__all__ = ["VaultProvider", "VaultSettings"]


class VaultProvider:
    """Read secrets of one store."""

    def __init__(self, *, settings: VaultSettings, tools: ProviderTools) -> None:
        """Prepare; nothing is read and nothing is sent before the first use.

        Raises:
            SettingsInvalidError: They name a variable that is not declared.

        """
        require_declared(settings, tools.own, where="providers.vault")
        self._settings = settings
        self._transport = StoreTransport(settings=settings, tools=tools)
        self._login = StoreLogin(
            settings=settings,
            method=login_method(settings.auth, observer=tools.observer, own=tools.own),
            transport=self._transport,
            clock=tools.clock,
        )
        self._leases = StoreLeases(settings=settings, login=self._login, transport=self._transport, clock=tools.clock)
        questions = Questions(login=self._login)
        self._mounts = MountTable(ask=questions.look, clock=tools.clock)
        self._listings = FolderListings(get=questions.get, mount_of=self._mounts.of, clock=tools.clock)
        self._latest = LatestState(login=self._login, transport=self._transport, clock=tools.clock)
        self._belief = Belief(
            mounts=self._mounts, questions=questions, latest=self._latest, clock=tools.clock, observer=tools.observer
        )
        self._secrets = KvReads(questions=questions, limit=tools.max_value_bytes)
        self._engines = EngineReads(
            login=self._login, leases=self._leases, clock=tools.clock, limit=tools.max_value_bytes
        )
        self._issued = IssuedCertificates(questions=questions, mounts=settings.own_pki_mounts)
        self._leader = LeaderWatch(login=self._login, clock=tools.clock, seconds=settings.leader_seconds)
        self._health = StoreHealth(
            settings=settings,
            transport=self._transport,
            login=self._login,
            leader=self._leader,
            clock=tools.clock,
            observer=tools.observer,
        )

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
        return await self._belief.fetch(source, self._read)

    async def prepare(self, source: Source) -> Parent:
        """Return what a lease of `source` shall hang on. Raises: as `Leasing.prepare`."""
        call_of(await self._belief.mount_of(source), source)
        return await self._leases.prepare()

    async def mint(self, source: Source, parent: Parent) -> Reading:
        """Return what the engine makes for one asker. Raises: as `Leasing.mint`."""
        return await self._belief.run(source, lambda mount, source: self._engines.mint(mount, source, parent))

    async def left_behind(self, source: Source, *, created: float, known: AbstractSet[str]) -> Sequence[str]:
        """Return the handles of certificates that were issued then. Raises: as `Leasing.left_behind`."""
        issued = await self._issued.around(source, created=created)
        unknown = [certificate.handle for certificate in issued if certificate.handle not in known]
        return [handle for handle in unknown if await self._leases.lives(handle)]

    async def renew(self, grip: Grip, *, seconds: float) -> Extension:
        """Ask for `seconds` of life from now. Raises: as `Leasing.renew`."""
        return await self._leases.renew(grip, seconds=seconds)

    async def look_up(self, grip: Grip) -> float:
        """Return the seconds that the lease has left. Raises: as `Leasing.look_up`."""
        return await self._leases.look_up(grip)

    async def revoke(self, grip: Grip) -> None:
        """Return when the lease is gone. Raises: as `Leasing.revoke`."""
        await self._leases.revoke(grip)

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
        await self._health.check()

    async def reach(self, path: str) -> None:
        """Return when the broker may look at `path` in the store, whose mount holds secrets; reads no secret.

        Raises:
            UpstreamDeniedError: Nothing is mounted there, or the broker has no right to anything below it.
            SecretUnusableError: It is the store's own, and no secrets engine.
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

    def _read(self, mount: Mount, source: Source) -> Awaitable[Reading]:
        return (self._secrets if mount.is_kv else self._engines).read(mount, source)
