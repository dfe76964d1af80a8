"""The operations listener: is it alive, is it ready and since when, and what has it counted."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from broker.clock import Clock
from broker.metrics import Metrics
from broker.web.middleware import finish, json_headers, operations_edge
from broker.web.schemas import rfc3339

LIVEZ_PATH: Final = "/livez"
READYZ_PATH: Final = "/readyz"
METRICS_PATH: Final = "/metrics"
_NOT_READY: Final = 503
_UNKNOWN: Final = "not looked at yet"


@dataclass(frozen=True, slots=True)
class DependencyState:
    """What is known about one dependency; `since` is the wall time of the last change."""

    ready: bool
    reason: str
    since: float


class Readiness:
    """What the broker needs in order to answer, and how each of that is."""

    def __init__(self, *, clock: Clock, metrics: Metrics) -> None:
        """Begin with nothing known, which is not ready."""
        self._clock = clock
        self._metrics = metrics
        self._states: dict[str, DependencyState] = {}
        self._watchers: list[Callable[[], None]] = []

    def set(self, dependency: str, ready: bool, reason: str) -> None:  # noqa: FBT001  Callers write `ready=`.
        """State how a dependency is; the since-when changes only when `ready` does."""
        known = self._states.get(dependency)
        since = known.since if known is not None and known.ready == ready else self._clock.now()
        state = self._states[dependency] = DependencyState(ready, reason, since)
        self._metrics.ready(dependency=dependency, ready=ready)
        if state != known:
            self._tell()

    def expect(self, *dependencies: str) -> None:
        """Count each of them as not ready until it has been looked at."""
        for dependency in dependencies:
            self._states[dependency] = DependencyState(ready=False, reason=_UNKNOWN, since=self._clock.now())
            self._metrics.ready(dependency=dependency, ready=False)
        self._tell()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a dependency, or the reason why it is not ready, is another one than before."""
        self._watchers.append(changed)

    @property
    def ready(self) -> bool:
        """Tell whether every dependency is ready, and there is one."""
        return self.ready_without(())

    def ready_without(self, excluded: Collection[str]) -> bool:
        """Tell whether every dependency but the `excluded` is ready, and there is one."""
        counted = [state.ready for name, state in self._states.items() if name not in excluded]
        return bool(counted) and all(counted)

    @property
    def in_words(self) -> str:
        """Return one line for people: "ready", or what is not and why."""
        faults: dict[str, list[str]] = {}
        for name, state in self.snapshot().items():
            if not state.ready:
                faults.setdefault(state.reason, []).append(name)
        if faults:
            return "not ready: " + "; ".join(f"{', '.join(names)}: {reason}" for reason, names in faults.items())
        return "ready" if self._states else "starting"

    def _tell(self) -> None:
        for changed in self._watchers:
            changed()

    def snapshot(self) -> dict[str, DependencyState]:
        """Return the state of every dependency, by name."""
        return dict(sorted(self._states.items()))


def build_operations_app(*, readiness: Readiness, registry: CollectorRegistry) -> web.Application:
    """Return the application of the operations listener."""
    app = web.Application(middlewares=[operations_edge], client_max_size=1024)
    handler = _OperationsHandler(readiness=readiness, registry=registry)
    app.router.add_routes(
        [
            web.get(LIVEZ_PATH, handler.livez, allow_head=False),
            web.get(READYZ_PATH, handler.readyz, allow_head=False),
            web.get(METRICS_PATH, handler.metrics, allow_head=False),
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
