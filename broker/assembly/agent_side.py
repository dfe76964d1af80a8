"""What answers agents: the use cases, put together, and the routes that lead to them."""

import ssl
from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Middleware

from broker.admission import Admission
from broker.assembly.foundation import Foundation
from broker.assembly.source_side import SourceSide
from broker.changes.feed import ChangeFeed
from broker.issue import IssueToken
from broker.limits.throttle import Throttle
from broker.orders.administration import Administration
from broker.orders.cache import OrderCache
from broker.orders.leases import OrderLeases
from broker.resolve import ResolveReferences
from broker.tokens import TokenVerifier, public_jwks
from broker.watch import WatchReferences
from broker.watch_limits import WatchLimits
from broker.web.applications import build_agent_app
from broker.web.body import BodyLimits
from broker.web.callers import AgentDoor
from broker.web.routes.administrators import AdministratorDoor
from broker.web.routes.cache_orders import cache_order_routes
from broker.web.routes.lease_orders import lease_order_routes
from broker.web.routes.leases import lease_routes
from broker.web.routes.oauth import oauth_routes
from broker.web.routes.resolve import resolve_route
from broker.web.routes.watch import WatchHandler, watch_routes
from broker.web.tls.peers import Peers

_MAX_TOKEN_SECONDS = 3600


class AgentSide:
    """The use cases behind the agents' listener."""

    def __init__(self, *, base: Foundation, source_side: SourceSide, issuer: str) -> None:
        """Build every use case; nothing runs before its first request. `issuer` is the `iss` of the tokens."""
        self._base = base
        self._source_side = source_side
        self._issuer = issuer
        self._trail = base.traced_trail
        self._peers = Peers(trust=base.credentials, allow_no_eku=base.settings.tls.allow_no_eku)
        self._admission = self._admit()
        self._door = AgentDoor(
            peers=self._peers, clock=base.clock, admission=self._admission, in_flight=source_side.in_flight
        )
        self._resolve = ResolveReferences(
            admission=self._admission,
            policy=base.policy,
            sources=source_side.sources,
            trail=self._trail,
            fingerprints=base.keys.fingerprints,
            metrics=base.metrics,
            max_references=base.settings.limits.max_references,
        )
        self._administration = Administration(policy=base.policy, trail=self._trail, clock=base.clock)
        self.orders = OrderCache(administration=self._administration, cache=source_side.cache, metrics=base.metrics)
        self.feed = ChangeFeed(
            cache=source_side.cache,
            comparable=source_side.comparable,
            reread=source_side.sources.reread,
            # Nothing of a value is kept to compare with but its keyed hash.
            marks=lambda cached: base.keys.fingerprints.of(cached.reading.document.select(())),
            seconds=base.settings.watch.interval_seconds,
        )

    def application(self, *, outermost: Sequence[Middleware]) -> web.Application:
        """Return the application of the agents' listener, behind the middlewares `outermost`."""
        settings = self._base.settings
        limits = BodyLimits(max_bytes=settings.limits.max_body_bytes, seconds=settings.limits.body_seconds)
        return build_agent_app(
            routes=[
                resolve_route(resolve=self._resolve, door=self._door, clock=self._base.clock, limits=limits),
                *self._token_routes(),
                *lease_routes(leases=self._source_side.leases, door=self._door),
                *watch_routes(self._watch_handler(limits)),
                *self._order_routes(),
            ],
            clock=self._base.clock,
            metrics=self._base.metrics,
            max_body_bytes=limits.max_bytes,
            allowed_hosts=frozenset(settings.listen.allowed_hosts) or None,
            outermost=outermost,
        )

    def name_at(self, connection: ssl.SSLObject) -> str:
        """Return the name of the identity at the other end of a connection; empty when it has none."""
        return self._peers.name_at(connection)

    def _admit(self) -> Admission:
        keys = {self._base.keys.token.kid: self._base.keys.token}
        limits = self._base.settings.limits
        return Admission(
            policy=self._base.policy,
            verifier=TokenVerifier(
                issuer=self._issuer, audience=self._issuer, keys=keys, max_lifetime=_MAX_TOKEN_SECONDS
            ),
            throttle=Throttle(
                clock=self._base.clock, per_second=limits.identity_requests_per_second, burst=limits.identity_burst
            ),
            trail=self._trail,
            strangers=self._base.strangers,
            metrics=self._base.metrics,
            clock=self._base.clock,
        )

    def _token_routes(self) -> list[web.RouteDef]:
        issue = IssueToken(
            policy=self._base.policy,
            signer=self._base.keys.token,
            trail=self._trail,
            metrics=self._base.metrics,
            clock=self._base.clock,
            lifetime_seconds=self._base.settings.tokens.lifetime_seconds,
            issuer=self._issuer,
            audience=self._issuer,
        )
        return oauth_routes(
            issue=issue,
            door=self._door,
            jwks=public_jwks({self._base.keys.token.kid: self._base.keys.token}),
            issuer=self._issuer,
        )

    def _order_routes(self) -> list[web.RouteDef]:
        door = AdministratorDoor(administration=self._administration, agents=self._door)
        leases = OrderLeases(
            administration=self._administration,
            leases=self._source_side.leases,
            metrics=self._base.metrics,
        )
        return [*cache_order_routes(orders=self.orders, door=door), *lease_order_routes(orders=leases, door=door)]

    def _watch_handler(self, limits: BodyLimits) -> WatchHandler:
        settings = self._base.settings.watch
        watch = WatchReferences(
            admission=self._admission,
            policy=self._base.policy,
            feed=self.feed,
            leases=self._source_side.leases,
            trail=self._trail,
            clock=self._base.clock,
            limits=WatchLimits(
                max_references=settings.max_references,
                max_watches=settings.max_watches_per_identity,
                max_sources=settings.max_sources_per_identity,
            ),
        )
        return WatchHandler(
            watch=watch,
            feed=self.feed,
            door=self._door,
            limits=limits,
            heartbeat_seconds=settings.heartbeat_seconds,
            write_seconds=settings.write_seconds,
        )
