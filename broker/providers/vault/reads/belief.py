"""When a store's refusal is believed: not from a mount that may have changed, nor from a node that may lag behind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from hvac.utils import format_url

from broker.clock import Clock
from broker.errors import (
    FetchError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.providers.base import UpstreamObserver
from broker.providers.vault.engines.mounts import Mount, MountTable
from broker.providers.vault.exchange.answers import (
    NOT_FOUND,
    StoreAnswerError,
    WrongEngineError,
    is_shut_place,
    unavailable,
)
from broker.providers.vault.own_token.questions import Questions
from broker.providers.vault.reads.known import KnownSources
from broker.providers.vault.reads.latest import LatestState
from broker.reference import Source
from broker.secret import Reading

# A mount may be replaced by another of the same name: a refusal is believed only when the mount was looked at lately.
_MOUNT_SECONDS: Final = 5.0
# What an absence may mean besides that the secret is gone, and how much later it is believed where the store can't be
# asked for its latest state: a standby of a healthy cluster is a tenth of a second behind.
_DOUBTFUL: Final = frozenset({MissingPart.MOUNT, MissingPart.PATH, MissingPart.VERSION})
_LAG_SECONDS: Final = 0.3
_KNOWN_SOURCES: Final = 10_000

Read = Callable[[Mount, Source], Awaitable[Reading]]


class Belief:
    """Read at the mounts of one store, and look twice before a refusal is passed on."""

    def __init__(
        self,
        *,
        mounts: MountTable,
        questions: Questions,
        latest: LatestState,
        clock: Clock,
        observer: UpstreamObserver,
    ) -> None:
        """Keep the collaborators."""
        self._observer = observer
        self._mounts = mounts
        self._questions = questions
        self._latest = latest
        self._clock = clock
        self._known = KnownSources(limit=_KNOWN_SOURCES)

    async def fetch(self, source: Source, read: Read) -> Reading:
        """Return what `run` returns; believe an absence from the latest state of the store alone.

        Raises:
            FetchError: As `read`.
            SourceUnavailableError: The mount can't be looked at.

        """
        try:
            reading = await self.run(source, read)
        except SecretMissingError as error:
            if error.part not in _DOUBTFUL:
                raise
            reading = await self._run_again(source, read, error)
        self._known.add(source)
        return reading

    async def run(
        self,
        source: Source,
        read: Read,
        *,
        mount_seconds: float = _MOUNT_SECONDS,
    ) -> Reading:
        """Return what `read` returns; believe a refusal when the mount was looked at within `mount_seconds` before.

        Raises:
            FetchError: As `read`.
            SourceUnavailableError: The mount can't be looked at.

        """
        began = self._clock.monotonic()
        mount = await self.mount_of(source)
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

    async def mount_of(self, source: Source) -> Mount:
        """Return the mount of `source`.

        Raises:
            WrongEngineError: Nothing is mounted there.
            UpstreamDeniedError: The store denies it, or nothing is mounted there: it does not tell.
            SourceUnavailableError: The store can't be asked.
            SecretMissingError: The path is a mount and names nothing below it.
            SecretUnusableError: It is the store's own, and no secrets engine.

        """
        try:
            return await self._mounts.of(source.path)
        except UpstreamDeniedError as denial:
            # The store does not tell a mount that is not there from one without a right. Its path may, to a token
            # whose policy covers it.
            await self._require_mounted(source.path)
            message = "the store denies the broker this path, or nothing is mounted there"
            raise UpstreamDeniedError(message, words=denial.words) from None

    async def _require_mounted(self, path: str) -> None:
        """Return when something may be mounted at `path`.

        Raises:
            WrongEngineError: Nothing is.
            SourceUnavailableError: The store can't be asked.

        """
        try:
            await self._questions.get(format_url("/v1/{}", path), mount=path.partition("/")[0])
        except StoreAnswerError as error:
            if is_shut_place(error.status, error.document):
                # Nobody's rights can be seen in a namespace that is shut, and none is denied there.
                raise unavailable(error) from None
            if error.status == NOT_FOUND and error.says("no handler for route"):
                raise WrongEngineError(error.words) from None
        except UpstreamDeniedError:
            return

    async def _look_again(self, mount: Mount, source: Source, refusal: FetchError) -> Mount:
        try:
            return await self._mounts.again(mount, source.path)
        except UpstreamDeniedError:
            if isinstance(refusal, WrongEngineError):
                self._observer.upstream_alarm(provider="vault", alarm="mount_gone")
                message = "the secrets engine that was mounted there is gone"
                raise SourceUnavailableError(message, words=refusal.words) from None
            raise refusal from None

    async def _run_again(self, source: Source, read: Read, absence: SecretMissingError) -> Reading:
        """Return what is there after all. A node may lag behind, and the mount may be another one by now."""
        was_there = source in self._known
        if not await self._latest.reach():
            if not was_there:
                raise absence
            await asyncio.sleep(_LAG_SECONDS)
        self._known.forget(source)
        return await self.run(source, read, mount_seconds=0.0 if was_there else _MOUNT_SECONDS)
