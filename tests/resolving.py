"""What agents ask for, put together with stand-ins for the clock, the policy, the stores and the trail."""

from collections.abc import Mapping

from broker.admission import Admission
from broker.cache.cache import Cache
from broker.limits.fair_queue import FairQueues
from broker.limits.throttle import Throttle
from broker.metrics import Metrics
from broker.resolve import ResolveReferences
from broker.sources import Sources
from tests.fakes import FakeClock, FakeFingerprints, FakePolicy, FakeProvider, FakeTrail, FakeVerifier, NoLeases


def admission_of(
    *,
    policy: FakePolicy,
    trail: FakeTrail,
    metrics: Metrics,
    clock: FakeClock,
    verifier: FakeVerifier | None = None,
    per_second: float = 0,
    burst: int = 1,
) -> Admission:
    """Return what proves who asks; by default one may ask as often as one likes."""
    return Admission(
        policy=policy,
        verifier=verifier or FakeVerifier(),
        throttle=Throttle(clock=clock, per_second=per_second, burst=burst),
        trail=trail,
        strangers=trail,
        metrics=metrics,
        clock=clock,
    )


def resolving(
    *,
    policy: FakePolicy,
    providers: Mapping[str, FakeProvider],
    trail: FakeTrail,
    metrics: Metrics,
    clock: FakeClock,
    admission: Admission,
    max_bytes: int = 9999,
) -> tuple[ResolveReferences, Cache]:
    """Return the use case and its cache; a caller waits 20 ms for a refresh, and no time for its turn."""
    cache = Cache(clock=clock, metrics=metrics, max_entries=99, max_bytes=max_bytes, fetch_seconds=5, refresh_wait=0.02)
    resolver = ResolveReferences(
        admission=admission,
        policy=policy,
        sources=Sources(cache=cache, leases=NoLeases(), providers=providers, queues=FairQueues({})),
        trail=trail,
        fingerprints=FakeFingerprints(),
        metrics=metrics,
        max_references=256,
    )
    return resolver, cache
