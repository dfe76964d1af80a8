"""The operations listener: is it alive, is it ready and since when, and what has it counted."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from broker.readiness import Readiness
from broker.web.middleware import finish, json_headers, operations_edge
from broker.web.schemas import rfc3339

LIVEZ_PATH: Final = "/livez"
READYZ_PATH: Final = "/readyz"
METRICS_PATH: Final = "/metrics"
_NOT_READY: Final = 503


def build_operations_app(
    *, readiness: Readiness, registry: CollectorRegistry, extra_routes: Sequence[web.RouteDef] = ()
) -> web.Application:
    """Return the application of the operations listener."""
    app = web.Application(middlewares=[operations_edge], client_max_size=1024)
    handler = _OperationsHandler(readiness=readiness, registry=registry)
    app.router.add_routes(
        [
            web.get(LIVEZ_PATH, handler.livez, allow_head=False),
            web.get(READYZ_PATH, handler.readyz, allow_head=False),
            web.get(METRICS_PATH, handler.metrics, allow_head=False),
            *extra_routes,
        ]
    )
    app.on_response_prepare.append(finish)
    return app


@dataclass(frozen=True, slots=True, kw_only=True)
class _OperationsHandler:
    readiness: Readiness
    registry: CollectorRegistry

    async def livez(self, _request: web.Request) -> web.Response:
        """Answer that the event loop turns."""
        return web.Response(body=b'{"alive":true}', headers=json_headers())

    async def readyz(self, request: web.Request) -> web.Response:
        """Answer whether requests would be served, with a state and a since-when for each dependency.

        `?exclude=NAME`, as at the Kubernetes API server, leaves a dependency out of the verdict and not out of the
        report: a load balancer must not take a broker away that still has values for an outage of the store.
        """
        ready = self.readiness.ready_without(request.query.getall("exclude", []))
        dependencies = {
            name: {"ready": state.ready, "since": rfc3339(state.since), "reason": state.reason}
            for name, state in self.readiness.snapshot().items()
        }
        body = json.dumps({"ready": ready, "dependencies": dependencies}).encode("ascii")
        return web.Response(status=200 if ready else _NOT_READY, body=body, headers=json_headers())

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer every series, as Prometheus text or as OpenMetrics, by `Accept`."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self.registry), headers={"Content-Type": content_type})
