"""The operations listener: is it alive, is it ready and since when, and what has it counted."""

from dataclasses import dataclass
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from broker.readiness import Readiness
from broker.web.answer import json_answer, json_headers, rfc3339

LIVEZ_PATH: Final = "/livez"
READYZ_PATH: Final = "/readyz"
METRICS_PATH: Final = "/metrics"
_NOT_READY: Final = 503


def operations_routes(*, readiness: Readiness, registry: CollectorRegistry) -> list[web.RouteDef]:
    """Return the routes of probes and metrics."""
    handler = _OperationsHandler(readiness=readiness, registry=registry)
    return [
        web.get(LIVEZ_PATH, handler.livez, allow_head=False),
        web.get(READYZ_PATH, handler.readyz, allow_head=False),
        web.get(METRICS_PATH, handler.metrics, allow_head=False),
    ]


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
        document = {"ready": ready, "dependencies": dependencies}
        return json_answer(document, status=200 if ready else _NOT_READY)

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer every series, as Prometheus text or as OpenMetrics, by `Accept`."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self.registry), headers={"Content-Type": content_type})
