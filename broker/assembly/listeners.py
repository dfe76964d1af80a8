"""The two listeners: bound before anything begins, so that their ports are known, and served last."""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from broker.assembly.foundation import Foundation
from broker.audit.event import AuditEvent, EventKind, Outcome
from broker.errors import AuditUnavailableError
from broker.lifetime import Lifetime
from broker.web.listening.binding import bind
from broker.web.listening.descriptors import connections_within_limit
from broker.web.listening.drain import Drain
from broker.web.listening.http_connection import HttpConnections
from broker.web.listening.plain_listener import PlainListener
from broker.web.listening.tls_listener import HandshakeResult, TlsListener
from broker.web.tls.handshake import HandshakeOutcome

# Probes and scrapes of a platform, several times over. They come out of the descriptors that no agent gets, and one
# that is idle makes room soon.
_OPERATIONS_CONNECTIONS: Final = 32
_OPERATIONS_IDLE_SECONDS: Final = 10.0


class AgentListener:
    """Where agents connect: every handshake counted, every refused one on record."""

    def __init__(self, *, base: Foundation, inherited: socket.socket | None, other_descriptors: int) -> None:
        """Listen on the socket that was `inherited`, else where the settings say; nothing is accepted before `serve`.

        `other_descriptors` is what requests may have open besides their connections.

        Raises:
            FoundError: The address or the port can't be used.

        """
        self._base = base
        self._sock = inherited or bind(base.settings.listen.host, base.settings.listen.port)
        # Asked now: a closed socket, at the end, knows its port no more.
        self.port = _port_of(self._sock)
        self._other_descriptors = other_descriptors
        self._drain = Drain()

    def counted(self) -> Middleware:
        """Return the middleware that knows which requests are in flight; it has to be the outermost one."""
        return self._drain.middleware()

    async def serve(
        self, application: web.Application, life: Lifetime, *, name_of: Callable[[ssl.SSLObject], str]
    ) -> None:
        """Answer by `application` until the end of `life`, which waits for the requests in flight.

        `name_of` tells the name of the identity behind a handshake.

        Raises:
            SettingsInvalidError: The limit of open files leaves no room for connections.

        """
        listen = self._base.settings.listen
        # Half of the time is for requests to be answered, the other for the answers to be taken.
        drain_seconds = listen.drain_seconds / 2
        runner = web.AppRunner(application, shutdown_timeout=drain_seconds)
        await runner.setup()
        life.at_end(runner.cleanup)
        life.at_end(partial(self._drain.finish, seconds=drain_seconds))
        listener = TlsListener(
            protocol=HttpConnections(
                runner=runner,
                idle_seconds=listen.idle_seconds,
                write_seconds=listen.write_seconds,
                metrics=self._base.metrics,
            ),
            sock=self._sock,
            context=self._base.credentials.context,
            on_handshake=self._record_handshake,
            name_of=name_of,
            gave_way=self._base.metrics.connection_gave_way,
            max_connections=connections_within_limit(listen.max_connections, others=self._other_descriptors),
            handshake_seconds=listen.handshake_seconds,
        )
        await listener.start()
        life.at_end(listener.stop)
        self._base.metrics.connections_from(lambda: listener.connections)

    async def _record_handshake(self, result: HandshakeResult) -> None:
        self._base.metrics.handshake(result.outcome)
        if result.outcome == HandshakeOutcome.OK:
            return
        event = AuditEvent(
            kind=EventKind.HANDSHAKE, outcome=Outcome.FAILURE, reason=result.outcome, address=result.address
        )
        # A refused handshake reveals nothing, so it need not wait for the trail; a failing trail is loud by itself.
        with suppress(AuditUnavailableError):
            await self._base.strangers.append(event)


class OperationsListener:
    """Where the platform looks: probes, metrics, and signed webhooks."""

    def __init__(self, *, base: Foundation, inherited: socket.socket | None) -> None:
        """Listen on the socket that was `inherited`, else where the settings say; nothing is accepted before `serve`.

        Raises:
            FoundError: The address or the port can't be used.

        """
        operations = base.settings.operations
        self._sock = inherited or bind(operations.host, operations.port)
        self.port = _port_of(self._sock)
        self._idle_seconds = min(base.settings.listen.idle_seconds, _OPERATIONS_IDLE_SECONDS)

    async def serve(self, application: web.Application, life: Lifetime) -> None:
        """Answer by `application` until the end of `life`."""
        runner = web.AppRunner(application)
        await runner.setup()
        life.at_end(runner.cleanup)
        listener = PlainListener(
            protocol=HttpConnections(runner=runner, idle_seconds=self._idle_seconds),
            sock=self._sock,
            max_connections=_OPERATIONS_CONNECTIONS,
        )
        await listener.start()
        life.at_end(listener.stop)


def _port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])
