"""What everything else of a broker stands on: its settings, clock, keys, policy and certificates, and the trail."""

from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import CollectorRegistry

from broker.assembly.implementations import trail_store
from broker.assembly.own_keys import OwnKeys
from broker.assembly.parts import private_directory, tls_files, tracing_of
from broker.audit.checkpoint import CheckpointKey
from broker.audit.event import EventSink
from broker.audit.strangers import Strangers
from broker.audit.trail import Trail
from broker.clock import Clock
from broker.config import Settings
from broker.metrics import Metrics
from broker.policy.current import CurrentPolicy
from broker.policy_file import load_policy
from broker.tracing import Tracing
from broker.web.tls.credentials import Credentials


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Foundation:
    """The collaborators that nearly all others share.

    Attributes:
        settings: What the broker has started with.
        clock: Wall time and steady time.
        version: The broker's own.
        registry: Every series that `/metrics` shows.
        metrics: What counts them.
        credentials: The broker's certificate, and whom it admits.
        policy: The policy in force.
        keys: The broker's own.
        trail: The audit trail; begun by who starts the broker.
        strangers: What puts refusals on record of those whom nobody knows.
        tracing: None: no traces are made.

    """

    settings: Settings
    clock: Clock
    version: str
    registry: CollectorRegistry
    metrics: Metrics
    credentials: Credentials
    policy: CurrentPolicy
    keys: OwnKeys
    trail: Trail
    strangers: Strangers
    tracing: Tracing | None

    @property
    def traced_trail(self) -> EventSink:
        """Return the trail for what answers requests: with a span around each wait, where there are traces."""
        return self.trail if self.tracing is None else self.tracing.trail(self.trail)


def lay_foundation(settings: Settings, clock: Clock) -> Foundation:
    """Return what `settings` describe; reads key, policy and certificate files. Blocks.

    Raises:
        SettingsInvalidError: A setting, or a file that it names, can't be used.
        PolicyInvalidError: The policy can't be used.

    """
    private_directory(settings.state_directory)
    own_version = version("logflux-broker")
    registry = CollectorRegistry()
    metrics = Metrics(registry=registry, version=own_version)
    keys = OwnKeys.of(settings.state_directory)
    trail = _trail(settings, key=keys.checkpoint, clock=clock, metrics=metrics)
    return Foundation(
        settings=settings,
        clock=clock,
        version=own_version,
        registry=registry,
        metrics=metrics,
        credentials=Credentials(files=tls_files(settings), clock=clock, metrics=metrics),
        policy=CurrentPolicy(load_policy(settings.policy_file)),
        keys=keys,
        trail=trail,
        strangers=Strangers(trail=trail, clock=clock),
        tracing=tracing_of(settings.tracing),
    )


def _trail(settings: Settings, *, key: CheckpointKey, clock: Clock, metrics: Metrics) -> Trail:
    state = settings.state_directory
    return Trail(
        store=trail_store(state),
        key=key,
        checkpoints=state / "checkpoints.log",
        clock=clock,
        metrics=metrics,
        checkpoint_events=settings.audit.checkpoint_events,
        checkpoint_seconds=settings.audit.checkpoint_seconds,
    )
