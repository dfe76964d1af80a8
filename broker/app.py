"""The composition root: settings in, a running broker out.

It lists what a broker is made of, and the order in which that begins and ends. Nothing else constructs
collaborators; which provider and which store stand behind their protocols is said in `assembly/implementations.py`.
"""

import asyncio
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from broker.assembly.agent_side import AgentSide
from broker.assembly.foundation import lay_foundation
from broker.assembly.listeners import AgentListener, OperationsListener
from broker.assembly.parts import webhook_verifier
from broker.assembly.source_side import SourceSide
from broker.audit.event import AuditEvent, EventKind, Outcome
from broker.clock import Clock, SystemClock
from broker.config import Settings
from broker.config_file import SettingsFile
from broker.errors import AuditUnavailableError
from broker.lifetime import Lifetime
from broker.logs import EventLogger, set_level
from broker.orders.webhook_keys import WebhookKeys
from broker.policy_file import PolicyFile
from broker.readiness import Dependencies, Readiness
from broker.reload import Part, PartName, Reloader
from broker.systemd.activation import AGENTS, OPERATIONS
from broker.web.applications import build_operations_app
from broker.web.listening.parser import require_strict_parser
from broker.web.routes.cache_orders import webhook_route
from broker.web.routes.operations import operations_routes
from broker.web.tls.handshake import HandshakeOutcome

_LOG: Final = EventLogger("broker.app")


class Service:
    """One broker: everything that it is made of, started and stopped in order.

    Attributes:
        readiness: What it needs in order to answer, and how each of that is.
        looked: Set after the first look at each of that.

    """

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
        self._base = base = lay_foundation(settings, clock or SystemClock())
        self._webhook = webhook_verifier(settings)
        self._source_side = sources = SourceSide(base=base)
        self._agents = AgentListener(
            base=base, inherited=inherited.get(AGENTS), other_descriptors=sources.max_connections
        )
        self._operations = OperationsListener(base=base, inherited=inherited.get(OPERATIONS))
        issuer = settings.tokens.issuer or f"https://{settings.listen.host}:{self.agent_port}"
        self._agent_side = AgentSide(base=base, source_side=sources, issuer=issuer)
        self._reloader = self._build_reloader(settings_file)
        self.readiness = Readiness(clock=base.clock, metrics=base.metrics)
        self.readiness.set("policy", ready=True, reason="")
        self.looked = asyncio.Event()
        self._dependencies = Dependencies(
            readiness=self.readiness,
            trail=base.trail,
            certificates=base.credentials,
            providers=sources.providers,
            cache=sources.cache,
            metrics=base.metrics,
            looked=self.looked,
        )
        self._life = Lifetime()

    @property
    def agent_port(self) -> int:
        """Return the port that agents connect to."""
        return self._agents.port

    async def start(self) -> None:
        """Open the trail, record the start, and answer.

        Raises:
            AuditUnavailableError: The start can't be recorded, so the broker does not run.
            StateUnavailableError: What an earlier process has left can't be read.
            SettingsInvalidError: A file of the state directory, or the limit of open files, can't be used.

        """
        life = self._life
        self.readiness.expect("audit", "serving", *self._source_side.providers)
        if self._base.tracing is not None:
            life.at_end(self._base.tracing.aclose)
        await self._base.trail.start()
        life.at_end(self._base.trail.close)
        await self._base.trail.append(self._own_event(EventKind.START))
        life.at_end(self._record_stop)
        life.keep("strangers", self._base.strangers.keep)
        await self._source_side.start(life)
        life.keep("readiness", self._dependencies.watch)
        life.keep("reload", self._reloader.watch)
        await self._serve(life)
        _LOG.info("serving", agent_port=self.agent_port, operations_port=self._operations.port)

    async def stop(self) -> None:
        """Refuse new requests, finish those in flight, record the stop, and close everything."""
        self.readiness.set("serving", ready=False, reason="shutting down")
        await self._life.end()

    async def reload(self) -> bool:
        """Read everything again that can change; return whether all of it is in force as its files stand."""
        return await self._reloader.reload()

    async def _serve(self, life: Lifetime) -> None:
        base = self._base
        traced = [] if base.tracing is None else [base.tracing.middleware()]
        application = self._agent_side.application(outermost=[*traced, self._agents.counted()])
        base.metrics.started(now=base.clock.now())
        base.metrics.expect(
            providers=self._source_side.providers,
            routes=[resource.canonical for resource in application.router.resources()],
            handshakes=HandshakeOutcome,
            events=EventKind,
            parts=PartName,
        )
        orders = self._agent_side.orders
        webhook = (
            [] if self._webhook is None else [webhook_route(orders=orders, verifier=self._webhook, clock=base.clock)]
        )
        probes = operations_routes(readiness=self.readiness, registry=base.registry)
        await self._operations.serve(build_operations_app(routes=[*probes, *webhook]), life)
        await self._agents.serve(application, life, name_of=self._agent_side.name_at)
        # Streams end first, or the drain would wait for them.
        life.at_end(self._agent_side.feed.aclose)
        life.keep("watch", self._agent_side.feed.run)
        self.readiness.set("serving", ready=True, reason="")

    def _build_reloader(self, settings_file: Path | None) -> Reloader:
        base = self._base
        parts: list[Part] = [
            SettingsFile(settings=base.settings, file=settings_file, set_log_level=set_level),
            base.credentials,
            PolicyFile(file=base.settings.policy_file, current=base.policy, metrics=base.metrics, clock=base.clock),
        ]
        if self._webhook is not None:
            parts.append(WebhookKeys(files=base.settings.webhook.key_files, verifier=self._webhook))
        return Reloader(parts=parts, trail=base.trail, metrics=base.metrics)

    def _own_event(self, kind: EventKind) -> AuditEvent:
        details: dict[str, str | int] = {
            "version": self._base.version,
            "policy": self._base.policy.current.digest,
            "agent_port": self.agent_port,
        }
        return AuditEvent(kind=kind, outcome=Outcome.SUCCESS, details=details)

    async def _record_stop(self) -> None:
        try:
            await self._base.trail.append(self._own_event(EventKind.STOP))
        except AuditUnavailableError:
            _LOG.error("stop_not_recorded", reason="the audit trail is unavailable")
