"""The composition root: settings in, a running broker out.

Nothing else constructs collaborators, and only this module picks implementations.
"""

import asyncio
import os
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

from broker.admission import Admission
from broker.audit.checkpoint import CheckpointKey, load_or_create_checkpoint_key
from broker.audit.event import AuditEvent, EventKind, Outcome
from broker.audit.fingerprint import Fingerprinter
from broker.audit.trail import Trail
from broker.cache import Cache
from broker.changes import ChangeFeed, Comparable
from broker.clock import Clock, SystemClock
from broker.config import Settings, TracingSettings
from broker.config_file import SettingsFile
from broker.config_source import validate_section
from broker.descriptors import connections_within_limit
from broker.errors import AuditUnavailableError, SettingsInvalidError
from broker.fair_queue import FairQueue
from broker.finding import found
from broker.issue import IssueToken
from broker.key_file import load_or_create_secret, read_private
from broker.leases.book import LeaseSettings
from broker.leases.leases import Leases
from broker.leases.record import LeaseRecord
from broker.logs import EventLogger, set_level
from broker.metrics import Metrics
from broker.orders import OrderCache
from broker.policy.current import CurrentPolicy
from broker.policy_file import PolicyFile, load_policy
from broker.providers.base import Leasing, Provider, ProviderTools
from broker.providers.registry import PROVIDERS
from broker.readiness import Dependencies, Readiness
from broker.reference import VAULT
from broker.reload import PartName, Reloader
from broker.resolve import ResolveReferences
from broker.sealed import KEY_BYTES, SealedFile, load_sealing_key
from broker.sealing import Sealing
from broker.signing import load_or_create_signing_key
from broker.sources import Sources
from broker.store.schema import schema_version
from broker.store.sqlite import SqliteTrailStore
from broker.store.sqlite_reader import SqliteTrailReader
from broker.store.state import SqliteStateStore, read_leases
from broker.systemd.activation import AGENTS, OPERATIONS
from broker.throttle import Throttle
from broker.tokens import SigningKey, TokenVerifier, public_jwks
from broker.tracing import Tracing, require_extra
from broker.tracing import Trail as AuditTrail
from broker.watch import WatchLimits, WatchReferences
from broker.web.certificates import TlsFiles
from broker.web.credentials import Credentials
from broker.web.drain import Drain
from broker.web.leases import lease_routes
from broker.web.listener import HandshakeResult, TlsListener, bind
from broker.web.middleware import request_id_of
from broker.web.oauth import oauth_routes
from broker.web.operations import build_operations_app
from broker.web.orders import order_routes, webhook_route
from broker.web.parser import require_strict_parser
from broker.web.routes import RequestLimits, build_agent_app
from broker.web.tls import HandshakeOutcome, Peers
from broker.web.watch import WatchHandler, watch_routes
from broker.webhook import WebhookVerifier, parse_key

_LOG = EventLogger("broker.app")
# What a provider whose section says nothing of it may have open at once.
_PROVIDER_CONNECTIONS = 32


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
    fingerprint: bytes


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
        _private_directory(state)
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
            fingerprint=load_or_create_secret(state / "fingerprint.key"),
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
        self._tracing = _tracing(settings.tracing)
        self._stack = AsyncExitStack()
        self._trail: Trail
        self._leases: Leases
        self._orders: OrderCache
        self._reloader: Reloader
        self._listener: TlsListener
        self._feed: ChangeFeed

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
        agents = self._agent_application()
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
        parts = (settings, self._credentials, policy)
        return Reloader(parts=parts, trail=self._trail, metrics=self.metrics)

    async def _start_operations(self) -> None:
        webhook = [] if self._webhook is None else [self._webhook_route(self._webhook)]
        application = build_operations_app(readiness=self.readiness, registry=self.registry, extra_routes=webhook)
        runner = web.AppRunner(application, access_log=None, keepalive_timeout=self.settings.listen.idle_seconds)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, self._operations).start()

    def _webhook_route(self, verifier: WebhookVerifier) -> web.RouteDef:
        return webhook_route(orders=self._orders, verifier=verifier, clock=self.clock)

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
        self._stack.push_async_callback(self._feed.aclose)
        self._own_task(self._feed.run())
        self.readiness.set("serving", ready=True, reason="")

    def _agent_application(self) -> web.Application:
        settings, tracing = self.settings, self._tracing
        providers = self._providers
        trail: AuditTrail = self._trail
        if tracing is not None:
            providers = {scheme: tracing.provider(scheme, provider) for scheme, provider in providers.items()}
            trail = tracing.trail(trail)
        self._stack.push_async_callback(self._cache.aclose)
        keys = {self._keys.token.kid: self._keys.token}
        admission = Admission(
            policy=self._policy,
            verifier=TokenVerifier(issuer=self.issuer, audience=self.issuer, keys=keys, max_lifetime=3600),
            throttle=Throttle(
                clock=self.clock,
                per_second=settings.limits.identity_requests_per_second,
                burst=settings.limits.identity_burst,
            ),
            trail=trail,
            metrics=self.metrics,
            clock=self.clock,
        )
        sources = Sources(cache=self._cache, leases=self._leases, providers=providers, queues=self._queues_of_reads())
        fingerprints = Fingerprinter(key=self._keys.fingerprint, key_id="k1")
        resolve = ResolveReferences(
            admission=admission,
            policy=self._policy,
            sources=sources,
            trail=trail,
            fingerprints=fingerprints,
            metrics=self.metrics,
            max_references=settings.limits.max_references,
        )
        issue = IssueToken(
            policy=self._policy,
            signer=self._keys.token,
            trail=trail,
            metrics=self.metrics,
            clock=self.clock,
            lifetime_seconds=settings.tokens.lifetime_seconds,
            issuer=self.issuer,
            audience=self.issuer,
        )
        self._orders = OrderCache(
            policy=self._policy, cache=self._cache, trail=trail, metrics=self.metrics, clock=self.clock
        )
        limits = RequestLimits(
            max_references=settings.limits.max_references,
            max_body_bytes=settings.limits.max_body_bytes,
            body_seconds=settings.limits.body_seconds,
        )
        self._feed = ChangeFeed(
            cache=self._cache,
            comparable={scheme: one for scheme, one in self._providers.items() if isinstance(one, Comparable)},
            reread=sources.reread,
            # Nothing of a value is kept to compare with but its keyed hash.
            marks=lambda cached: fingerprints.of(cached.reading.document.select(())),
            seconds=settings.watch.interval_seconds,
        )
        peers = Peers(trust=self._credentials, allow_no_eku=settings.tls.allow_no_eku)
        return build_agent_app(
            resolve=resolve,
            peers=peers,
            clock=self.clock,
            metrics=self.metrics,
            limits=limits,
            allowed_hosts=frozenset(settings.listen.allowed_hosts) or None,
            extra_routes=[
                *oauth_routes(
                    issue=issue,
                    peers=peers,
                    clock=self.clock,
                    jwks=public_jwks(keys),
                    issuer=self.issuer,
                    request_id_of=request_id_of,
                    refuse_identity=resolve.refuse_identity,
                ),
                *lease_routes(leases=self._leases, peers=peers, refuser=resolve, clock=self.clock),
                *watch_routes(
                    WatchHandler(
                        watch=WatchReferences(
                            admission=admission,
                            policy=self._policy,
                            feed=self._feed,
                            trail=trail,
                            clock=self.clock,
                            limits=WatchLimits(
                                max_references=settings.watch.max_references,
                                max_watches=settings.watch.max_watches_per_identity,
                            ),
                        ),
                        feed=self._feed,
                        peers=peers,
                        clock=self.clock,
                        limits=limits,
                        heartbeat_seconds=settings.watch.heartbeat_seconds,
                        write_seconds=settings.watch.write_seconds,
                    )
                ),
                *order_routes(
                    orders=self._orders, peers=peers, clock=self.clock, refuse_identity=resolve.refuse_identity
                ),
            ],
            outermost=[*([] if tracing is None else [tracing.middleware()]), self._drain.middleware()],
        )

    def _queues_of_reads(self) -> dict[str, FairQueue]:
        limits = self.settings.limits
        return {
            # Whoever comes first waits here and not behind others' reads in the provider's own line.
            scheme: FairQueue(
                at_once=int(section.get("max_connections", _PROVIDER_CONNECTIONS)),
                max_waiting=limits.max_waiting_reads,
                max_waiting_each=limits.max_waiting_reads_per_identity,
            )
            for scheme, section in self.settings.providers.items()
        }

    def _provider_connections(self) -> int:
        sections = self.settings.providers.values()
        return sum(int(section.get("max_connections", _PROVIDER_CONNECTIONS)) for section in sections)

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


def _private_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    except OSError as error:
        message = f"{directory}: {error.strerror}; state_directory must be writable for the broker"
        raise SettingsInvalidError(message) from None
    if read_only or not os.access(directory, os.W_OK | os.X_OK):
        why = "is on a read-only file system" if read_only else "Permission denied"
        message = f"{directory}: {why}; state_directory must be writable for the broker"
        raise SettingsInvalidError(message)


def _tracing(settings: TracingSettings) -> Tracing | None:
    return None if settings.endpoint is None else Tracing(settings=settings, version=version("logflux-broker"))


def webhook_verifier(settings: Settings) -> WebhookVerifier | None:
    """Return what verifies webhooks, None when they are switched off; the keys are named by their files.

    Raises:
        FoundError: A key file can't be used.

    """
    keys: dict[str, bytes] = {}
    for file in settings.webhook.key_files:
        try:
            keys[file.name] = parse_key(read_private(file))
        except ValueError as error:
            raise found(file, "webhook_key_unusable", "holds no webhook key", str(error)) from None
    return WebhookVerifier(keys=keys, tolerance_seconds=settings.webhook.tolerance_seconds) if keys else None


def sealed_file(settings: Settings) -> SealedFile | None:
    """Return the file of sealed values, None when it is switched off.

    Raises:
        FoundError: The key can't be used.

    """
    key_file = settings.cache.sealed_key_file
    if key_file is None:
        return None
    try:
        key = load_sealing_key(key_file)
    except ValueError as error:
        raise found(key_file, "sealing_key_unusable", f"does not hold {KEY_BYTES} bytes", str(error)) from None
    return SealedFile(file=settings.state_directory / "sealed.cache", key=key)


def tls_files(settings: Settings) -> TlsFiles:
    """Return what the settings say about the listener's files."""
    tls = settings.tls
    return TlsFiles(
        certificate=tls.certificate,
        key=tls.key,
        client_ca=tls.client_ca,
        client_crl=tls.client_crl,
        keep_stale=tls.on_stale_crl == "keep",
        minimum=tls.minimum,
    )


def provider_settings() -> dict[str, type[BaseModel]]:
    """Return the settings model of each provider, by its scheme."""
    return {entry.scheme: entry.settings for entry in PROVIDERS}
