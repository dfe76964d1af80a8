"""The routes of the agents' listener: HTTP in, the use case, HTTP out. No decision is made here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final, Protocol

from aiohttp import web
from aiohttp.typedefs import Middleware

from broker.admission import Address
from broker.audit.event import EventKind
from broker.clock import Clock
from broker.errors import IdentityRefusedError, MalformedReferenceError
from broker.identity import PeerIdentity
from broker.resolution import Granted, Require, Resolution, Status
from broker.resolve import Wishes
from broker.series.requests import RequestSeries
from broker.web.body import read_bytes
from broker.web.known_bodies import KnownBodies
from broker.web.middleware import Edge, facts_of, finish, json_headers, logs_references, logs_requests, request_id_of
from broker.web.problems import HttpRefusedError, WebCode, resolution_problem
from broker.web.schemas import resolution_body

RESOLVE_PATH: Final = "/v1/resolve"
_BEARER: Final = "bearer"
_INVALID_REQUEST: Final = {"WWW-Authenticate": 'Bearer realm="broker", error="invalid_request"'}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What one request may ask, in the units of the names."""

    max_references: int = 256
    max_body_bytes: int = 256 * 1024
    body_seconds: float = 10.0


class PeerSource(Protocol):
    """Tells who is at the other end of a request's connection."""

    def peer_of(self, request: web.Request, *, now: float) -> PeerIdentity:
        """Return the peer, as its certificate proves it at `now`. Raises: IdentityRefusedError."""
        ...


class Admitting(Protocol):
    """Lets nobody in who has no identity, and nobody who asks too often."""

    async def slow(self, peer: PeerIdentity, kind: EventKind, *, address: Address, request: str) -> None:
        """Return when `peer` may ask now. Raises: ThrottledError, AuditUnavailableError."""
        ...

    async def refuse_identity(self, error: IdentityRefusedError, *, address: Address, request: str) -> None:
        """Put on record that a connection's certificate is no identity. Raises: AuditUnavailableError."""
        ...


class Resolver(Protocol):
    """The use case behind `POST /v1/resolve`."""

    async def resolve(
        self,
        *,
        peer: PeerIdentity,
        unverified_token: str | None,
        texts: Sequence[str],
        require: Require,
        address: Address,
        request: str,
        wishes: Wishes,
    ) -> Resolution:
        """Return what the peer may have, after that is on record."""
        ...

    async def refuse_identity(self, error: IdentityRefusedError, *, address: Address, request: str) -> None:
        """Put on record that a connection's certificate is no identity."""
        ...


def build_agent_app(
    *,
    resolve: Resolver,
    peers: PeerSource,
    clock: Clock,
    metrics: RequestSeries,
    limits: RequestLimits,
    allowed_hosts: frozenset[str] | None,
    extra_routes: Sequence[web.RouteDef] = (),
    outermost: Sequence[Middleware] = (),
) -> web.Application:
    """Return the application of the agents' listener; hosts compare without regard to case."""
    hosts = None if allowed_hosts is None else frozenset(host.lower() for host in allowed_hosts)
    edge = Edge(clock=clock, metrics=metrics, allowed_hosts=hosts)
    app = web.Application(middlewares=[*outermost, edge.middleware()], client_max_size=limits.max_body_bytes)
    handler = _ResolveHandler(resolve=resolve, peers=peers, clock=clock, limits=limits, bodies=KnownBodies())
    app.router.add_routes([web.post(RESOLVE_PATH, handler.handle, expect_handler=handler.expect), *extra_routes])
    app.on_response_prepare.append(finish)
    return app


@dataclass(frozen=True, slots=True, kw_only=True)
class _ResolveHandler:
    resolve: Resolver
    peers: PeerSource
    clock: Clock
    limits: RequestLimits
    bodies: KnownBodies

    async def handle(self, request: web.Request) -> web.Response:
        """Answer `POST /v1/resolve`."""
        instance = request_id_of(request)
        # Taken before the first await: the transport is gone once the client is.
        address = address_of(request)
        try:
            peer = self.peers.peer_of(request, now=self.clock.now())
        except IdentityRefusedError as error:
            await self.resolve.refuse_identity(error, address=address, request=instance)
            raise
        facts = facts_of(request)
        facts.identity = peer.name
        unverified_token = token_of(request)
        began = self.clock.monotonic()
        raw = await read_bytes(request, max_bytes=self.limits.max_body_bytes, seconds=self.limits.body_seconds)
        facts.body_seconds = self.clock.monotonic() - began
        asked = self.bodies.read(raw)
        resolution = await self.resolve.resolve(
            peer=peer,
            unverified_token=unverified_token,
            texts=asked.references,
            require=Require(asked.require),
            address=address,
            request=instance,
            wishes=Wishes(max_age=asked.max_age, min_versions=asked.min_versions, previous=asked.previous),
        )
        if logs_requests():
            facts.statuses = Counter([str(result.status) for result in resolution.results])
        if logs_references():
            facts.references = _shown(resolution)
        if not resolution.complete:
            return resolution_problem(resolution, instance=instance)
        if resolution.worst is not Status.INVALID:
            self.bodies.remember(raw, asked)
        return web.Response(body=resolution_body(resolution), headers=json_headers())

    async def expect(self, request: web.Request) -> None:
        """Invite the body (`Expect: 100-continue`) unless its declared length is over the limit."""
        if (request.content_length or 0) <= self.limits.max_body_bytes:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # The interim answer is no part of the answer whose size is counted.
            request.writer.output_size = 0


def _shown(resolution: Resolution) -> list[str]:
    """Return the references with their status, without what is no reference and so may be a secret."""
    return [
        f"{result.reference} {result.status}"
        for result in resolution.results
        if isinstance(result, Granted) or result.code != MalformedReferenceError.code
    ]


def token_of(request: web.Request) -> str | None:
    """Return the presented token, not verified in any way; None when there is none."""
    lines = request.headers.getall("Authorization", [])
    if not lines:
        return None
    scheme, _, unverified_token = lines[0].partition(" ")
    unverified_token = unverified_token.strip(" ")
    if len(lines) > 1 or scheme.lower() != _BEARER or not unverified_token:
        message = "send one `Authorization: Bearer <token>` header, or none"
        raise HttpRefusedError(WebCode.AUTHORIZATION_MALFORMED, message, headers=_INVALID_REQUEST)
    return unverified_token


def address_of(request: web.Request) -> Address:
    """Return where the connection comes from, by the socket and never by a header."""
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    if not peer:
        message = "the connection is gone"
        raise HttpRefusedError(WebCode.BODY_INCOMPLETE, message)
    return _address(peer[0])


# Of the process on purpose, as in `schemas.py`: the answer hangs on the text alone, and the number is bounded.
@lru_cache(maxsize=4096)
def _address(text: str) -> Address:
    """Return the address that `text` spells, an IPv4 one also where the socket shows it as a mapped IPv6 one."""
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
