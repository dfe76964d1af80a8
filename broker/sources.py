"""Read what policy allows: each source once a request, from memory or by its provider, as fresh as was asked for."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from broker.cache.cache import Cache
from broker.cache.remembered import Cached, Fetch
from broker.errors import (
    FetchError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceMintsError,
    SourceUnavailableError,
)
from broker.leases.held import Asker
from broker.limits.fair_queue import FairQueues
from broker.limits.in_flight import Claim
from broker.policy.decision import Allow, Decision
from broker.providers.base import Provider
from broker.reference import Reference, Source
from broker.secret import Reading

# Nobody makes the broker read a source more often than this by asking for something fresher.
_YOUNG_SECONDS: Final = 1.0
_LAG_SECONDS: Final = 1.0
# Reads that compare wait in a lane of their own.
_WATCH_LANE: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """What an asker wants beyond what policy gives; it tightens and never loosens.

    Attributes:
        max_age: Seconds since the read that a value may have; younger than a second is always young enough.
        versions: The least version of sources that keep versions.

    """

    max_age: float | None = None
    versions: Mapping[Source, int] = field(default_factory=dict)

    def narrow(self, seconds: float) -> float:
        """Return a clock of the policy, cut to what the asker wants."""
        return seconds if self.max_age is None else min(seconds, max(self.max_age, _YOUNG_SECONDS))


class Minter(Protocol):
    """Answers for sources that are read anew for each identity."""

    async def lookup(
        self, source: Source, asker: Asker, references: Iterable[Reference], *, fresh_for: float
    ) -> Cached | None:
        """Return the answer from a lease that lives, else None. Raises: FetchError."""
        ...

    async def get(self, source: Source, asker: Asker, references: Iterable[Reference], *, fresh_for: float) -> Cached:
        """Return the answer from a lease. Raises: FetchError."""
        ...


class Sources:
    """Read sources for one request at a time."""

    def __init__(self, *, cache: Cache, leases: Minter, providers: Mapping[str, Provider], queues: FairQueues) -> None:
        """Read by `providers`, by their schemes, and remember in `cache`; what mints is asked of `leases`.

        A read waits for its turn in the queue of its scheme, in the lane of the identity that needs it first.
        """
        self._cache = cache
        self._leases = leases
        self._providers = providers
        self._queues = queues

    def label_of(self, reference: Reference) -> str:
        """Return the name of the provider for the metrics, a closed set."""
        return reference.source.scheme if reference.source.scheme in self._providers else "none"

    async def read(
        self, decisions: Mapping[Reference, Decision], freshness: Freshness, asker: Asker, claim: Claim
    ) -> Mapping[Source, Cached | FetchError]:
        """Read each allowed source once, with the shortest clocks that apply to it; `claim` counts what is read.

        Raises:
            StateUnavailableError: A source mints, and what it mints could not be remembered.
            AuditUnavailableError: As above, and it could not be put on record.

        """
        clocks = _shortest_clocks(decisions, freshness)
        readings: dict[Source, Cached | FetchError] = {}
        for source, (fresh_for, max_stale) in clocks.items():
            hit = self._cache.lookup(source, fresh_for=fresh_for, max_stale=max_stale)
            if hit is not None and source not in freshness.versions:
                readings[source] = hit
        waiting = [source for source in clocks if source not in readings]
        if waiting:
            references = _by_source(decisions)
            reads = [
                self._counted(
                    claim,
                    self._fetch(source, clocks[source], freshness.versions.get(source), asker, references[source]),
                )
                for source in waiting
            ]
            # One alone needs no task of its own.
            fetched = [await reads[0]] if len(reads) == 1 else await asyncio.gather(*reads)
            readings.update(zip(waiting, fetched, strict=True))
        return readings

    async def reread(self, source: Source, max_stale: float) -> Cached:
        """Return `source` as it is now, for who compares it with what it was; it may be remembered for `max_stale`.

        Raises:
            FetchError: It gives nothing now.

        """
        provider = self._providers.get(source.scheme)
        if provider is None:
            message = "this broker has no provider for the scheme"
            raise SecretMissingError(message, part=MissingPart.MOUNT)
        provider.check(source)
        fetch = self._in_turn(provider, _WATCH_LANE)
        return await self._cache.get(source, fresh_for=_YOUNG_SECONDS, max_stale=max_stale, fetch=fetch)

    async def _counted(self, claim: Claim, read: Coroutine[None, None, Cached | FetchError]) -> Cached | FetchError:
        """Return what was read, unless there is no room for it until the answer is made."""
        found = await read
        if isinstance(found, Cached):
            try:
                claim.hold(found.reading.document)
            except FetchError as error:
                return error
        return found

    async def _fetch(
        self,
        source: Source,
        clocks: tuple[float, float],
        version: int | None,
        asker: Asker,
        references: Sequence[Reference],
    ) -> Cached | FetchError:
        provider = self._providers.get(source.scheme)
        try:
            if provider is None:
                message = f"this broker has no provider for `{source.scheme}:`; its settings switch one on"
                raise SecretMissingError(message, part=MissingPart.MOUNT)
            provider.check(source)
            leased = await self._leases.lookup(source, asker, references, fresh_for=clocks[0])
            found = leased or await self._read(provider, source, clocks, asker, references)
            if version is None or _version_of(found) >= version:
                return found
            newer = await self._cache.get(
                source,
                fresh_for=_YOUNG_SECONDS,
                max_stale=_YOUNG_SECONDS,
                fetch=self._in_turn(provider, asker.peer.name),
            )
            return _require_version(newer, version)
        except FetchError as error:
            return error

    async def _read(
        self,
        provider: Provider,
        source: Source,
        clocks: tuple[float, float],
        asker: Asker,
        references: Sequence[Reference],
    ) -> Cached:
        fresh_for, max_stale = clocks
        fetch = self._in_turn(provider, asker.peer.name)
        try:
            return await self._cache.get(source, fresh_for=fresh_for, max_stale=max_stale, fetch=fetch)
        except SourceMintsError:
            return await self._leases.get(source, asker, references, fresh_for=fresh_for)

    def _in_turn(self, provider: Provider, lane: str) -> Fetch:
        async def fetch(source: Source) -> Reading:
            async with self._queues.turn(source.scheme, lane):
                return await provider.fetch(source)

        return fetch


def _shortest_clocks(
    decisions: Mapping[Reference, Decision], freshness: Freshness
) -> dict[Source, tuple[float, float]]:
    clocks: dict[Source, tuple[float, float]] = {}
    for reference, decision in decisions.items():
        if isinstance(decision, Allow):
            fresh_for, max_stale = clocks.get(reference.source, (decision.fresh_for, decision.max_stale))
            clocks[reference.source] = (min(fresh_for, decision.fresh_for), min(max_stale, decision.max_stale))
    if freshness.max_age is None:
        return clocks
    return {source: (freshness.narrow(fresh), freshness.narrow(stale)) for source, (fresh, stale) in clocks.items()}


def _by_source(decisions: Mapping[Reference, Decision]) -> dict[Source, list[Reference]]:
    """Return what is allowed of each source."""
    found: dict[Source, list[Reference]] = {}
    for reference, decision in decisions.items():
        if isinstance(decision, Allow):
            found.setdefault(reference.source, []).append(reference)
    return found


def _version_of(cached: Cached) -> int:
    version = cached.reading.version
    if version is None or not version.isdecimal():
        message = "the source keeps no versions, so min_versions can't name one"
        raise SecretUnusableError(message)
    return int(version)


def _require_version(cached: Cached, version: int) -> Cached:
    found = _version_of(cached)
    if found < version:
        # It may have been written a moment ago, and a standby of the store lags behind.
        message = f"the source has version {found} and not version {version} yet"
        raise SourceUnavailableError(message, retry_after=_LAG_SECONDS)
    return cached
