"""What the broker needs in order to answer, how each of that is and since when, and the watch that keeps it so."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from broker.cache.cache import Cache
from broker.clock import Clock
from broker.errors import SourceUnavailableError
from broker.metrics import Metrics
from broker.providers.base import Provider

_UNKNOWN: Final = "not looked at yet"
_PING_SECONDS: Final = 5.0
# A trail that can't be written stops every answer, so its healing is to be seen soon.
_UNHEALTHY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class DependencyState:
    """What is known about one dependency; `since` is the wall time of the last change."""

    ready: bool
    reason: str
    since: float


class Readiness:
    """What the broker needs in order to answer, and how each of that is."""

    def __init__(self, *, clock: Clock, metrics: Metrics) -> None:
        """Begin with nothing known, which is not ready."""
        self._clock = clock
        self._metrics = metrics
        self._states: dict[str, DependencyState] = {}
        self._watchers: list[Callable[[], None]] = []

    def set(self, dependency: str, ready: bool, reason: str) -> None:  # noqa: FBT001  Callers write `ready=`.
        """State how a dependency is; the since-when changes only when `ready` does."""
        known = self._states.get(dependency)
        since = known.since if known is not None and known.ready == ready else self._clock.now()
        state = self._states[dependency] = DependencyState(ready, reason, since)
        self._metrics.ready(dependency=dependency, ready=ready)
        if state != known:
            self._tell()

    def expect(self, *dependencies: str) -> None:
        """Count each of them as not ready until it has been looked at."""
        for dependency in dependencies:
            self._states[dependency] = DependencyState(ready=False, reason=_UNKNOWN, since=self._clock.now())
            self._metrics.ready(dependency=dependency, ready=False)
        self._tell()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a dependency, or the reason why it is not ready, is another one than before."""
        self._watchers.append(changed)

    @property
    def ready(self) -> bool:
        """Tell whether every dependency is ready, and there is one."""
        return self.ready_without(())

    def ready_without(self, excluded: Collection[str]) -> bool:
        """Tell whether every dependency but the `excluded` is ready, and there is one."""
        counted = [state.ready for name, state in self._states.items() if name not in excluded]
        return bool(counted) and all(counted)

    @property
    def in_words(self) -> str:
        """Return one line for people: "ready", or what is not and why."""
        faults: dict[str, list[str]] = {}
        for name, state in self.snapshot().items():
            if not state.ready:
                faults.setdefault(state.reason, []).append(name)
        if faults:
            return "not ready: " + "; ".join(f"{', '.join(names)}: {reason}" for reason, names in faults.items())
        return "ready" if self._states else "starting"

    def _tell(self) -> None:
        for changed in self._watchers:
            changed()

    def snapshot(self) -> dict[str, DependencyState]:
        """Return the state of every dependency, by name."""
        return dict(sorted(self._states.items()))


class Healthy(Protocol):
    """Tells what is wrong with it: the audit trail, or the certificates that the listener lives by."""

    def health(self) -> str:
        """Return the fault in words, empty when there is none."""
        ...


class Dependencies:
    """Look at the trail, the certificates and the providers again and again."""

    def __init__(
        self,
        *,
        readiness: Readiness,
        trail: Healthy,
        certificates: Healthy,
        providers: Mapping[str, Provider],
        cache: Cache,
        metrics: Metrics,
        looked: asyncio.Event,
    ) -> None:
        """Take what is looked at, and where that is stated; `looked` is set after the first look at each."""
        self._readiness = readiness
        self._trail = trail
        self._certificates = certificates
        self._providers = providers
        self._cache = cache
        self._metrics = metrics
        self._looked = looked

    async def watch(self) -> None:
        """Keep readiness equal to what they say, for ever."""
        while True:
            writes = self._look("audit", self._trail)
            self._look("certificates", self._certificates)
            await asyncio.gather(*(self._ping(scheme, provider) for scheme, provider in self._providers.items()))
            self._looked.set()
            self._metrics.cache_outlook(await self._cache.outlook(self._providers))
            await asyncio.sleep(_PING_SECONDS if writes else _UNHEALTHY_SECONDS)

    def _look(self, name: str, dependency: Healthy) -> bool:
        fault = dependency.health()
        self._readiness.set(name, ready=not fault, reason=fault)
        return not fault

    async def _ping(self, scheme: str, provider: Provider) -> None:
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await provider.ping()
        except SourceUnavailableError as error:
            self._readiness.set(scheme, ready=False, reason=error.detail)
        except TimeoutError:
            self._readiness.set(scheme, ready=False, reason="it does not answer in time")
        else:
            self._readiness.set(scheme, ready=True, reason="")
