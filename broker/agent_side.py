"""What answers agents: the use cases, put together, and the routes that lead to them."""

from collections.abc import Mapping, Sequence

from aiohttp import web
from aiohttp.typedefs import Middleware

from broker.admission import Admission
from broker.audit.fingerprint import Fingerprinter
from broker.cache import Cache
from broker.changes import ChangeFeed, Comparable
from broker.clock import Clock
from broker.config import Settings
from broker.fair_queue import FairQueue
from broker.issue import IssueToken
from broker.leases.leases import Leases
from broker.metrics import Metrics
from broker.orders import OrderCache
from broker.policy.current import CurrentPolicy
from broker.providers.base import Provider
from broker.resolve import ResolveReferences
from broker.sources import Sources
from broker.throttle import Throttle
from broker.tokens import SigningKey, TokenVerifier, public_jwks
from broker.tracing import Trail
from broker.watch import WatchLimits, WatchReferences
from broker.web.credentials import Credentials
from broker.web.leases import lease_routes
from broker.web.middleware import request_id_of
from broker.web.oauth import oauth_routes
from broker.web.orders import order_routes
from broker.web.routes import RequestLimits, build_agent_app
from broker.web.tls import Peers
from broker.web.watch import WatchHandler, watch_routes

# What a provider whose section says nothing of it may have open at once.
_PROVIDER_CONNECTIONS = 32
_MAX_TOKEN_SECONDS = 3600


def connections_of(section: Mapping[str, object]) -> int:
    """Return how many connections the provider of a section of the settings may have open at once."""
    return int(str(section.get("max_connections", _PROVIDER_CONNECTIONS)))


class AgentSide:
    """The use cases behind the agents' listener."""

    def __init__(  # noqa: PLR0913  One parameter a collaborator that the use cases share.
        self,
        *,
        settings: Settings,
        issuer: str,
        clock: Clock,
        metrics: Metrics,
        policy: CurrentPolicy,
        providers: Mapping[str, Provider],
        comparable: Mapping[str, Comparable],
        cache: Cache,
        leases: Leases,
        trail: Trail,
        token_key: SigningKey,
        fingerprints: Fingerprinter,
        trust: Credentials,
    ) -> None:
        """Build every use case; nothing runs before its first request."""
        self._settings = settings
        self._issuer = issuer
        self._clock = clock
        self._metrics = metrics
        self._policy = policy
        self._leases = leases
        self._trail = trail
        self._token_key = token_key
        self._peers = Peers(trust=trust, allow_no_eku=settings.tls.allow_no_eku)
        self._admission = self._admit()
        sources = Sources(cache=cache, leases=leases, providers=providers, queues=_queues(settings))
        self._resolve = ResolveReferences(
            admission=self._admission,
            policy=policy,
            sources=sources,
            trail=trail,
            fingerprints=fingerprints,
            metrics=metrics,
            max_references=settings.limits.max_references,
        )
        self.orders = OrderCache(policy=policy, cache=cache, trail=trail, metrics=metrics, clock=clock)
        self.feed = ChangeFeed(
            cache=cache,
            comparable=comparable,
            reread=sources.reread,
            # Nothing of a value is kept to compare with but its keyed hash.
            marks=lambda cached: fingerprints.of(cached.reading.document.select(())),
            seconds=settings.watch.interval_seconds,
        )

    def application(self, *, outermost: Sequence[Middleware]) -> web.Application:
        """Return the application of the agents' listener, behind the middlewares `outermost`."""
        settings = self._settings
        limits = RequestLimits(
            max_references=settings.limits.max_references,
            max_body_bytes=settings.limits.max_body_bytes,
            body_seconds=settings.limits.body_seconds,
        )
        return build_agent_app(
            resolve=self._resolve,
            peers=self._peers,
            clock=self._clock,
            metrics=self._metrics,
            limits=limits,
            allowed_hosts=frozenset(settings.listen.allowed_hosts) or None,
            extra_routes=[
                *self._token_routes(),
                *lease_routes(leases=self._leases, peers=self._peers, refuser=self._resolve, clock=self._clock),
                *watch_routes(self._watch_handler(limits)),
                *order_routes(
                    orders=self.orders,
                    peers=self._peers,
                    clock=self._clock,
                    refuse_identity=self._resolve.refuse_identity,
                ),
            ],
            outermost=outermost,
        )

    def _admit(self) -> Admission:
        keys = {self._token_key.kid: self._token_key}
        limits = self._settings.limits
        return Admission(
            policy=self._policy,
            verifier=TokenVerifier(
                issuer=self._issuer, audience=self._issuer, keys=keys, max_lifetime=_MAX_TOKEN_SECONDS
            ),
            throttle=Throttle(
                clock=self._clock, per_second=limits.identity_requests_per_second, burst=limits.identity_burst
            ),
            trail=self._trail,
            metrics=self._metrics,
            clock=self._clock,
        )

    def _token_routes(self) -> list[web.RouteDef]:
        issue = IssueToken(
            policy=self._policy,
            signer=self._token_key,
            trail=self._trail,
            metrics=self._metrics,
            clock=self._clock,
            lifetime_seconds=self._settings.tokens.lifetime_seconds,
            issuer=self._issuer,
            audience=self._issuer,
        )
        return oauth_routes(
            issue=issue,
            peers=self._peers,
            clock=self._clock,
            jwks=public_jwks({self._token_key.kid: self._token_key}),
            issuer=self._issuer,
            request_id_of=request_id_of,
            refuse_identity=self._resolve.refuse_identity,
        )

    def _watch_handler(self, limits: RequestLimits) -> WatchHandler:
        settings = self._settings.watch
        watch = WatchReferences(
            admission=self._admission,
            policy=self._policy,
            feed=self.feed,
            trail=self._trail,
            clock=self._clock,
            limits=WatchLimits(max_references=settings.max_references, max_watches=settings.max_watches_per_identity),
        )
        return WatchHandler(
            watch=watch,
            feed=self.feed,
            peers=self._peers,
            clock=self._clock,
            limits=limits,
            heartbeat_seconds=settings.heartbeat_seconds,
            write_seconds=settings.write_seconds,
        )


def _queues(settings: Settings) -> dict[str, FairQueue]:
    """Return a line for each provider: whoever comes first waits here and not behind others' reads in the provider."""
    limits = settings.limits
    return {
        scheme: FairQueue(
            at_once=connections_of(section),
            max_waiting=limits.max_waiting_reads,
            max_waiting_each=limits.max_waiting_reads_per_identity,
        )
        for scheme, section in settings.providers.items()
    }
