"""The applications of the two listeners: their routes, behind what holds for each of them."""

from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Middleware

from broker.clock import Clock
from broker.series.requests import RequestSeries
from broker.web.middleware import Edge, finish, operations_edge

_OPERATIONS_BODY_BYTES = 1024


def build_agent_app(
    *,
    routes: Sequence[web.RouteDef],
    clock: Clock,
    metrics: RequestSeries,
    max_body_bytes: int,
    allowed_hosts: frozenset[str] | None,
    outermost: Sequence[Middleware] = (),
) -> web.Application:
    """Return the application of the agents' listener; hosts compare without regard to case."""
    hosts = None if allowed_hosts is None else frozenset(host.lower() for host in allowed_hosts)
    edge = Edge(clock=clock, metrics=metrics, allowed_hosts=hosts)
    app = web.Application(middlewares=[*outermost, edge.middleware()], client_max_size=max_body_bytes)
    return _with_routes(app, routes)


def build_operations_app(*, routes: Sequence[web.RouteDef]) -> web.Application:
    """Return the application of the operations listener."""
    app = web.Application(middlewares=[operations_edge], client_max_size=_OPERATIONS_BODY_BYTES)
    return _with_routes(app, routes)


def _with_routes(app: web.Application, routes: Sequence[web.RouteDef]) -> web.Application:
    app.router.add_routes(routes)
    app.on_response_prepare.append(finish)
    return app
