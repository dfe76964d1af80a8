"""The composition root: settings in, a running broker out.

Nothing else constructs collaborators, and only this module picks implementations.
"""

import asyncio
import socket
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from aiohttp import web
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from broker.agent_side import AgentSide, connections_of
from broker.audit.checkpoint import CheckpointKey, load_or_create_checkpoint_key
from broker.audit.event import AuditEvent, EventKind, Outcome
from broker.audit.fingerprint import Fingerprinter
from broker.audit.trail import Trail
from broker.cache import Cache
from broker.changes import Comparable
from broker.clock import Clock, SystemClock
from broker.config import Settings
from broker.config_file import SettingsFile
from broker.config_source import validate_section
from broker.descriptors import connections_within_limit
from broker.errors import AuditUnavailableError, SettingsInvalidError
from broker.key_file import load_or_create_secret
from broker.leases.book import LeaseSettings
from broker.leases.leases import Leases
from broker.leases.record import LeaseRecord
from broker.logs import EventLogger, set_level
from broker.memory_limit import MemoryLimit
from broker.metrics import Metrics
from broker.parts import private_directory, sealed_file, tls_files, tracing_of, webhook_verifier
from broker.policy.current import CurrentPolicy
from broker.policy_file import PolicyFile, load_policy
from broker.providers.base import Leasing, Provider, ProviderTools
from broker.providers.registry import PROVIDERS
from broker.readiness import Dependencies, Readiness
from broker.reference import VAULT
from broker.reload import Part, PartName, Reloader
from broker.sealing import Sealing
from broker.signing import load_or_create_signing_key
from broker.store.schema import schema_version
from broker.store.sqlite import SqliteTrailStore
from broker.store.sqlite_reader import SqliteTrailReader
from broker.store.state import SqliteStateStore, read_leases
from broker.systemd.activation import AGENTS, OPERATIONS
from broker.tokens import SigningKey
from broker.tracing import Trail as AuditTrail
from broker.tracing import require_extra
from broker.web.credentials import Credentials
from broker.web.drain import Drain
from broker.web.listener import HandshakeResult, TlsListener, bind
from broker.web.operations import build_operations_app
from broker.web.orders import webhook_route
from broker.web.parser import require_strict_parser
from broker.web.tls import HandshakeOutcome
from broker.webhook_keys import WebhookKeys

_LOG = EventLogger("broker.app")


def open_trail_reader(database: Path) -> SqliteTrailReader:
    """Return a reader of the trail in `database`, beside a broker that may be writing it."""
    return SqliteTrailReader(database)


def open_leases(database: Path) -> Iterator[LeaseRecord]:
    """Return the leases in `database`, beside a broker that may be writing it. Raises: SettingsInvalidError."""
    return read_leases(database)


def known_schema() -> int:
    """Return the version of the audit database that this broker writes."""
    return schema_version()


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The broker's own keys, each in a file of the state directory."""

    token: SigningKey
    checkpoint: CheckpointKey
    # Not the bytes of its key: this object's repr would show them.
    fingerprints: Fingerprinter


def build_providers(settings: Settings, tools: ProviderTools) -> dict[str, Provider]:
    """Return a provider for each section of `settings.providers`.

    Raises:
        SettingsInvalidError: A section names no provider, or does not fit its model.

    """
    known = {entry.scheme: entry for entry in PROVIDERS}
    unknown = sorted(set(settings.providers) - set(known))
    if unknown:
        message = f"providers.{unknown[0]}: no such provider; there are {', '.join(sorted(known))}"
        raise SettingsInvalidError(message)
    built: dict[str, Provider] = {}
    for scheme, section in settings.providers.items():
        entry = known[scheme]
        built[scheme] = entry.build(validate_section(entry.settings, section, where=f"providers.{scheme}"), tools)
    return built


class Service:
    """One broker: everything that it is made of, started and stopped in order."""

    def __init__(
        self,
        *,
        settings: Settings,
        settings_file: Path | None = None,
        clock: Clock | None = None,
        inherited: Mapping[str, socket.socket] = MappingProxyType({}),
    ) -> None:
        """Build every part without touching the network or the event loop; reads key, policy and certificate files.

        Args:
            settings: What the broker starts with.
            settings_file: Where they came from, read again for a reload; None: they never change.
            clock: The machine's by default.
            inherited: Listening sockets that are used in place of the settings' addresses, by their names.

        Raises:
            SettingsInvalidError: A setting, or a file that it names, can't be used.
            PolicyInvalidError: The policy can't be used.

        """
        require_strict_parser()
        require_extra(settings.tracing)
        self.settings = settings
        self._settings_file = settings_file
        self.clock = clock or SystemClock()
        self.registry = CollectorRegistry()
        # Asked now: it reads files, which would hold up the event loop.
        self._version = version("logflux-broker")
        self.metrics = Metrics(registry=self.registry, version=self._version)
        self.readiness = Readiness(clock=self.clock, metrics=self.metrics)
        state = settings.state_directory
        private_directory(state)
        self._credentials = Credentials(files=tls_files(settings), clock=self.clock, metrics=self.metrics)
        self._policy = CurrentPolicy(load_policy(settings.policy_file))
        self.readiness.set("policy", ready=True, reason="")
        tools = ProviderTools(clock=self.clock, observer=self.metrics, max_value_bytes=settings.limits.max_value_bytes)
        self._providers: Mapping[str, Provider] = build_providers(settings, tools)
        self._cache = Cache(
            clock=self.clock,
            metrics=self.metrics,
            max_entries=settings.cache.max_entries,
            max_bytes=settings.cache.max_bytes,
            fetch_seconds=settings.cache.fetch_seconds,
            negative_seconds=settings.cache.negative_seconds,
        )
        self._keys = Keys(
            token=load_or_create_signing_key(state / "token.key"),
            checkpoint=load_or_create_checkpoint_key(state / "checkpoint.key"),
            fingerprints=Fingerprinter(key=load_or_create_secret(state / "fingerprint.key"), key_id="k1"),
        )
        listen, operations = settings.listen, settings.operations
        self._agents = inherited.get(AGENTS) or bind(listen.host, listen.port)
        self._operations = inherited.get(OPERATIONS) or bind(operations.host, operations.port)
        # Asked now: a closed socket, at the end, knows its port no more.
        self._agent_port = int(self._agents.getsockname()[1])
        self._operations_port = int(self._operations.getsockname()[1])
        self.looked = asyncio.Event()
        self._drain = Drain()
        self._webhook = webhook_verifier(settings)
        self._sealed = sealed_file(settings)
        # Made here, because its imports would hold up the event loop.
        self._tracing = tracing_of(settings.tracing)
        self._stack = AsyncExitStack()
        self._trail: Trail
        self._leases: Leases
        self._reloader: Reloader
        self._listener: TlsListener
        self._agent_side: AgentSide

    @property
    def agent_port(self) -> int:
        """Return the port that agents connect to."""
        return self._agent_port

    @property
    def operations_port(self) -> int:
        """Return the port of probes and metrics."""
        return self._operations_port

    @property
    def issuer(self) -> str:
        """Return the `iss` of the tokens that this broker issues."""
        return self.settings.tokens.issuer or f"https://{self.settings.listen.host}:{self.agent_port}"

    async def start(self) -> None:
        """Open the trail, record the start, and answer.

        Raises:
            AuditUnavailableError: The start can't be recorded, so the broker does not run.

        """
        self.readiness.expect("audit", "serving", *self._providers)
        if self._tracing is not None:
            self._stack.push_async_callback(self._tracing.aclose)
        state = self.settings.state_directory
        self._trail = Trail(
            store=SqliteTrailStore(state / "audit.db"),
            key=self._keys.checkpoint,
            checkpoints=state / "checkpoints.log",
            clock=self.clock,
            metrics=self.metrics,
            checkpoint_events=self.settings.audit.checkpoint_events,
            checkpoint_seconds=self.settings.audit.checkpoint_seconds,
        )
        await self._trail.start()
        self._stack.push_async_callback(self._trail.close)
        await self._trail.append(self._own_event(EventKind.START))
        self._stack.push_async_callback(self._record_stop)
        self._reloader = self._build_reloader()
        for provider in self._providers.values():
            self._stack.push_async_callback(provider.aclose)
        await self._open_leases()
        dependencies = Dependencies(
            readiness=self.readiness,
            trail=self._trail,
            certificates=self._credentials,
            providers=self._providers,
            cache=self._cache,
            metrics=self.metrics,
            looked=self.looked,
        )
        self._own_task(dependencies.watch())
        self._own_task(self._reloader.watch())
        self._own_task(self._cache.keep_fresh())
        self._own_task(MemoryLimit(cache=self._cache, metrics=self.metrics, clock=self.clock).keep())
        self._stack.push_async_callback(self._cache.aclose)
        self._agent_side = self._build_agent_side()
        outermost = [*([] if self._tracing is None else [self._tracing.middleware()]), self._drain.middleware()]
        agents = self._agent_side.application(outermost=outermost)
        store = self._providers.get(VAULT)
        if self._sealed is not None and store is not None:
            sealing = Sealing(file=self._sealed, cache=self._cache, fetch=store.fetch, clock=self.clock)
            await sealing.restore()
            self._own_task(sealing.keep())
        self.metrics.expect(
            providers=self._providers,
            routes=[resource.canonical for resource in agents.router.resources()],
            handshakes=HandshakeOutcome,
            events=EventKind,
            parts=PartName,
        )
        await self._start_operations()
        await self._start_agents(agents)
        _LOG.info("serving", agent_port=self.agent_port, operations_port=self.operations_port)

    async def stop(self) -> None:
        """Refuse new requests, finish those in flight, record the stop, and close everything."""
        self.readiness.set("serving", ready=False, reason="shutting down")
        await self._stack.aclose()

    async def reload(self) -> bool:
        """Read everything again that can change; return whether all of it is in force as its files stand."""
        return await self._reloader.reload()

    async def _open_leases(self) -> None:
        store = SqliteStateStore(self.settings.state_directory / "state.db")
        await store.open()
        self._stack.push_async_callback(store.aclose)
        minting = {scheme: provider for scheme, provider in self._providers.items() if isinstance(provider, Leasing)}
        settings = self.settings.leases
        self._leases = Leases(
            store=store,
            providers=minting,
            policy=self._policy,
            trail=self._trail,
            metrics=self.metrics,
            clock=self.clock,
            settings=LeaseSettings(**settings.model_dump()),
        )
        await self._leases.open()
        self._stack.push_async_callback(self._leases.aclose)
        self._own_task(self._leases.keep())

    def _build_reloader(self) -> Reloader:
        policy = PolicyFile(
            file=self.settings.policy_file, current=self._policy, metrics=self.metrics, clock=self.clock
        )
        settings = SettingsFile(settings=self.settings, file=self._settings_file, set_log_level=set_level)
        parts: list[Part] = [settings, self._credentials, policy]
        if self._webhook is not None:
            parts.append(WebhookKeys(files=self.settings.webhook.key_files, verifier=self._webhook))
        return Reloader(parts=parts, trail=self._trail, metrics=self.metrics)

    async def _start_operations(self) -> None:
        webhook = (
            []
            if self._webhook is None
            else [webhook_route(orders=self._agent_side.orders, verifier=self._webhook, clock=self.clock)]
        )
        application = build_operations_app(readiness=self.readiness, registry=self.registry, extra_routes=webhook)
        runner = web.AppRunner(application, access_log=None, keepalive_timeout=self.settings.listen.idle_seconds)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, self._operations).start()

    async def _start_agents(self, application: web.Application) -> None:
        listen = self.settings.listen
        runner = web.AppRunner(
            application,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=listen.idle_seconds,
            shutdown_timeout=listen.drain_seconds / 2,
        )
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        # Half of the time is for requests to be answered, the other for the answers to be taken.
        self._stack.push_async_callback(self._drain.finish, seconds=listen.drain_seconds / 2)
        self._listener = TlsListener(
            runner=runner,
            sock=self._agents,
            context=self._credentials.context,
            on_handshake=self._record_handshake,
            max_connections=connections_within_limit(listen.max_connections, others=self._provider_connections()),
            handshake_seconds=listen.handshake_seconds,
        )
        await self._listener.start()
        self._stack.push_async_callback(self._listener.stop)
        # Streams end first, or the drain would wait for them.
        self._stack.push_async_callback(self._agent_side.feed.aclose)
        self._own_task(self._agent_side.feed.run())
        self.readiness.set("serving", ready=True, reason="")

    def _build_agent_side(self) -> AgentSide:
        providers = self._providers
        trail: AuditTrail = self._trail
        if self._tracing is not None:
            providers = {scheme: self._tracing.provider(scheme, one) for scheme, one in providers.items()}
            trail = self._tracing.trail(trail)
        return AgentSide(
            settings=self.settings,
            issuer=self.issuer,
            clock=self.clock,
            metrics=self.metrics,
            policy=self._policy,
            providers=providers,
            # The wrapped ones count and time reads; only the provider itself knows how to compare.
            comparable={scheme: one for scheme, one in self._providers.items() if isinstance(one, Comparable)},
            cache=self._cache,
            leases=self._leases,
            trail=trail,
            token_key=self._keys.token,
            fingerprints=self._keys.fingerprints,
            trust=self._credentials,
        )

    def _provider_connections(self) -> int:
        sections = self.settings.providers.values()
        return sum(connections_of(section) for section in sections)

    def _own_event(self, kind: EventKind) -> AuditEvent:
        details: dict[str, str | int] = {
            "version": self._version,
            "policy": self._policy.current.digest,
            "agent_port": self.agent_port,
        }
        return AuditEvent(kind=kind, outcome=Outcome.SUCCESS, details=details)

    async def _record_stop(self) -> None:
        try:
            await self._trail.append(self._own_event(EventKind.STOP))
        except AuditUnavailableError:
            _LOG.error("stop_not_recorded", reason="the audit trail is unavailable")

    async def _record_handshake(self, result: HandshakeResult) -> None:
        self.metrics.handshake(result.outcome)
        self.metrics.connections(self._listener.connections)
        if result.outcome == "ok":
            return
        event = AuditEvent(
            kind=EventKind.HANDSHAKE, outcome=Outcome.FAILURE, reason=result.outcome, address=result.address
        )
        # A refused handshake reveals nothing, so it need not wait for the trail; a failing trail is loud by itself.
        with suppress(AuditUnavailableError):
            await self._trail.append(event)

    def _own_task(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run `coroutine` until the service stops."""
        task = asyncio.create_task(coroutine)

        async def end() -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(end)


def provider_settings() -> dict[str, type[BaseModel]]:
    """Return the settings model of each provider, by its scheme."""
    return {entry.scheme: entry.settings for entry in PROVIDERS}
