"""Who calls: the peer of a request's connection, where it calls from, and what it presents."""

from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from aiohttp import web

from broker.audit.event import EventKind
from broker.clock import Clock
from broker.errors import IdentityRefusedError
from broker.identity import PeerIdentity
from broker.limits.in_flight import Claim, InFlight
from broker.peer_address import Address, parse_address
from broker.web.claims import begin_claim
from broker.web.middleware import facts_of, request_id_of
from broker.web.problems import HttpRefusedError, WebCode

_BEARER: Final = "bearer"
_INVALID_REQUEST: Final = {"WWW-Authenticate": 'Bearer realm="broker", error="invalid_request"'}


class Caller(NamedTuple):
    """Whoever is at the other end; `request` is the broker's id of the request, `claim` what that has in memory."""

    peer: PeerIdentity
    address: Address
    request: str
    claim: Claim


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

    def weigh(self, peer: PeerIdentity, *, size: int) -> None:
        """Count a request of `peer` by the `size` of its body, in bytes."""
        ...

    async def refuse_identity(self, error: IdentityRefusedError, *, address: Address, request: str) -> None:
        """Put on record that a connection's certificate is no identity. Raises: AuditUnavailableError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDoor:
    """Lets agents in before a byte of their requests is read, each no more often than it may."""

    peers: PeerSource
    clock: Clock
    admission: Admitting
    in_flight: InFlight = field(default_factory=InFlight.unlimited)

    async def identify(self, request: web.Request) -> Caller:
        """Return who calls, however often that is.

        Raises:
            IdentityRefusedError: The certificate names nobody, which is on record.
            AuditUnavailableError: That can't be put on record.

        """
        # Taken before the first await: the transport is gone once the client is.
        address, instance = address_of(request), request_id_of(request)
        try:
            peer = self.peers.peer_of(request, now=self.clock.now())
        except IdentityRefusedError as error:
            await self.admission.refuse_identity(error, address=address, request=instance)
            raise
        facts_of(request).identity = peer.name
        return Caller(peer, address, instance, begin_claim(request, self.in_flight, peer.name))

    async def admit(self, request: web.Request, kind: EventKind) -> Caller:
        """Return who calls for something of `kind`.

        Raises:
            IdentityRefusedError: The certificate names nobody.
            ThrottledError: The identity asks too often.
            AuditUnavailableError: A refusal can't be put on record.

        """
        caller = await self.identify(request)
        await self.admission.slow(caller.peer, kind, address=caller.address, request=caller.request)
        return caller

    def weigh(self, caller: Caller, body: bytes) -> None:
        """Count the request of `caller` by its body, before anybody reads what that says."""
        self.admission.weigh(caller.peer, size=len(body))

    def require(self, request: web.Request) -> None:
        """Return if the certificate of a request that goes on still counts. Raises: IdentityRefusedError."""
        self.peers.peer_of(request, now=self.clock.now())


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
    return parse_address(peer[0])
