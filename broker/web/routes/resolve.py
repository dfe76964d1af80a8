"""`POST /v1/resolve`: HTTP in, the use case, HTTP out. No decision is made here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web

from broker.audit.event import EventKind
from broker.clock import Clock
from broker.errors import MalformedReferenceError
from broker.identity import PeerIdentity
from broker.limits.in_flight import Claim
from broker.peer_address import Address
from broker.resolution.results import Granted, Require, Resolution, Status
from broker.resolve import Wishes
from broker.web.answer import json_headers
from broker.web.body import BodyLimits, read_bytes
from broker.web.callers import AgentDoor, token_of
from broker.web.known_bodies import KnownBodies
from broker.web.large_body import LargeBody
from broker.web.middleware import facts_of, logs_references, logs_requests
from broker.web.problems import resolution_problem
from broker.web.schemas import resolution_body, resolution_parts

RESOLVE_PATH: Final = "/v1/resolve"


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
        claim: Claim,
    ) -> Resolution:
        """Return what the peer may have, after that is on record."""
        ...


def resolve_route(*, resolve: Resolver, door: AgentDoor, clock: Clock, limits: BodyLimits) -> web.RouteDef:
    """Return the route of what agents ask for."""
    handler = _ResolveHandler(resolve=resolve, door=door, clock=clock, limits=limits, bodies=KnownBodies())
    return web.post(RESOLVE_PATH, handler.handle, expect_handler=handler.expect)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ResolveHandler:
    resolve: Resolver
    door: AgentDoor
    clock: Clock
    limits: BodyLimits
    bodies: KnownBodies

    async def handle(self, request: web.Request) -> web.Response:
        """Answer `POST /v1/resolve`."""
        caller = await self.door.admit(request, EventKind.RESOLVE)
        facts = facts_of(request)
        unverified_token = token_of(request)
        began = self.clock.monotonic()
        raw = await read_bytes(request, self.limits)
        facts.body_seconds = self.clock.monotonic() - began
        self.door.weigh(caller, raw)
        asked = self.bodies.read(raw)
        resolution = await self.resolve.resolve(
            peer=caller.peer,
            unverified_token=unverified_token,
            texts=asked.references,
            require=Require(asked.require),
            address=caller.address,
            request=caller.request,
            wishes=Wishes(max_age=asked.max_age, min_versions=asked.min_versions, previous=asked.previous),
            claim=caller.claim,
        )
        if logs_requests():
            facts.statuses = Counter([str(result.status) for result in resolution.results])
        if logs_references():
            facts.references = _shown(resolution)
        if not resolution.complete:
            return resolution_problem(resolution, instance=caller.request)
        if resolution.worst is not Status.INVALID:
            self.bodies.remember(raw, asked)
        is_large = caller.claim.has_large_answer
        body = LargeBody(resolution_parts(resolution)) if is_large else resolution_body(resolution)
        caller.claim.built()
        return web.Response(body=body, headers=json_headers())

    async def expect(self, request: web.Request) -> None:
        """Invite the body (`Expect: 100-continue`) unless its declared length is over the limit."""
        if (request.content_length or 0) <= self.limits.max_bytes:
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
