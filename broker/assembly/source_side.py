"""Where values come from: the providers, what is remembered of them, and what they mint."""

from collections.abc import Mapping

from broker.assembly.foundation import Foundation
from broker.assembly.implementations import build_providers, provider_connections, state_store
from broker.assembly.parts import sealed_file
from broker.cache.cache import Cache
from broker.cache.control_group import memory_use
from broker.cache.memory_limit import MemoryLimit
from broker.cache.sealing import Sealing
from broker.changes.feed import Comparable
from broker.config import LimitSettings
from broker.grammar import VAULT
from broker.leases.leases import Leases
from broker.leases.settings import LeaseSettings
from broker.leases.standing import Grounds
from broker.lifetime import Lifetime
from broker.limits.fair_queue import FairQueue, FairQueues
from broker.limits.in_flight import InFlight, default_total
from broker.providers.base import Leasing, ProviderTools
from broker.sources import Sources


class SourceSide:
    """Everything between a use case and the stores.

    Attributes:
        providers: By their schemes.
        max_connections: What they may have open at once, all together.
        comparable: Those that can tell what has changed without a read of each secret.
        in_flight: What requests may have in memory at once.
        cache: What is remembered of them.
        leases: What they mint.
        sources: Reads for a request, through all of the above.

    """

    def __init__(self, *, base: Foundation) -> None:
        """Build everything; the network is not touched before `start`.

        Raises:
            SettingsInvalidError: A section of the providers, or the key of the sealed file, can't be used.

        """
        settings, clock, metrics = base.settings, base.clock, base.metrics
        total = settings.limits.max_bytes_in_flight
        self.in_flight = InFlight.of(default_total(memory_use()) if total is None else total, metrics)
        tools = ProviderTools(
            clock=clock,
            observer=metrics,
            max_value_bytes=settings.limits.max_value_bytes,
            answers=self.in_flight.upstream,
        )
        self.providers = build_providers(settings, tools)
        connections = provider_connections(settings)
        self.max_connections = sum(connections.values())
        self.comparable = {scheme: one for scheme, one in self.providers.items() if isinstance(one, Comparable)}
        self.cache = Cache(
            clock=clock,
            metrics=metrics,
            max_entries=settings.cache.max_entries,
            max_bytes=settings.cache.max_bytes,
            fetch_seconds=settings.cache.fetch_seconds,
            negative_seconds=settings.cache.negative_seconds,
        )
        self._memory_limit = MemoryLimit(cache=self.cache, metrics=metrics, clock=clock)
        queues = _queues(settings.limits, connections)
        self._state = state_store(settings.state_directory)
        self.leases = Leases(
            store=self._state,
            providers={scheme: one for scheme, one in self.providers.items() if isinstance(one, Leasing)},
            grounds=Grounds(policy=base.policy, trust=base.credentials),
            trail=base.trail,
            metrics=metrics,
            clock=clock,
            queues=queues,
            settings=LeaseSettings(**settings.leases.model_dump(), refused_seconds=settings.cache.negative_seconds),
        )
        read = self.providers if base.tracing is None else base.tracing.providers(self.providers)
        self.sources = Sources(cache=self.cache, leases=self.leases, providers=read, queues=queues)
        self._sealing = self._build_sealing(base)

    async def start(self, life: Lifetime) -> None:
        """Take over what an earlier process has left, and keep all of it until the end of `life`.

        Raises:
            SettingsInvalidError: The state database is open to others, newer, or no such database.
            StateUnavailableError: It can't be read or written.

        """
        for provider in self.providers.values():
            life.at_end(provider.aclose)
        life.at_end(self._state.aclose)
        await self._state.open()
        await self.leases.open()
        life.at_end(self.leases.aclose)
        life.keep("leases", self.leases.keep)
        life.keep("cache", self.cache.keep_fresh)
        life.keep("memory", self._memory_limit.keep)
        life.at_end(self.cache.aclose)
        if self._sealing is not None:
            await self._sealing.restore()
            life.keep("sealing", self._sealing.keep)

    def _build_sealing(self, base: Foundation) -> Sealing | None:
        file, store = sealed_file(base.settings), self.providers.get(VAULT)
        if file is None or store is None:
            return None
        return Sealing(file=file, cache=self.cache, fetch=store.fetch, clock=base.clock)


def _queues(limits: LimitSettings, connections: Mapping[str, int]) -> FairQueues:
    """Return a line for each provider: whoever comes first waits here and not behind others' reads in the provider."""
    return FairQueues(
        {
            scheme: FairQueue(
                at_once=at_once,
                max_waiting=limits.max_waiting_reads,
                max_waiting_each=limits.max_waiting_reads_per_identity,
            )
            for scheme, at_once in connections.items()
        }
    )
