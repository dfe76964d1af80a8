"""Probes and metrics."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from broker.readiness import Readiness
from broker.web.applications import build_operations_app
from broker.web.routes.operations import operations_routes
from tests.fakes import FakeClock, fake_metrics

Client = TestClient[web.Request, web.Application]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def readiness(clock: FakeClock) -> Readiness:
    return Readiness(clock=clock, metrics=fake_metrics())


@pytest.fixture
async def client(readiness: Readiness) -> AsyncIterator[Client]:
    app = build_operations_app(routes=operations_routes(readiness=readiness, registry=readiness._metrics.registry))
    async with TestClient(TestServer(app)) as made:
        yield made


async def test_alive_says_nothing_of_dependencies(client: Client) -> None:
    response = await client.get("/livez")
    assert (response.status, await response.json()) == (200, {"alive": True})
    assert (response.headers["Server"], response.headers["Cache-Control"]) == ("broker", "no-store")


async def test_nothing_known_is_not_ready(client: Client) -> None:
    response = await client.get("/readyz")
    assert (response.status, await response.json()) == (503, {"ready": False, "dependencies": {}})


async def test_every_dependency_must_be_ready(client: Client, readiness: Readiness) -> None:
    readiness.set("audit", ready=True, reason="")
    readiness.set("vault", ready=False, reason="sealed")
    response = await client.get("/readyz")
    assert response.status == 503
    assert await response.json() == {
        "ready": False,
        "dependencies": {
            "audit": {"ready": True, "since": "2027-01-15T08:00:00.000Z", "reason": ""},
            "vault": {"ready": False, "since": "2027-01-15T08:00:00.000Z", "reason": "sealed"},
        },
    }
    readiness.set("vault", ready=True, reason="")
    assert (await client.get("/readyz")).status == 200


async def test_an_excluded_dependency_is_reported_and_does_not_count(client: Client, readiness: Readiness) -> None:
    readiness.set("audit", ready=True, reason="")
    readiness.set("vault", ready=False, reason="sealed")
    readiness.set("file", ready=False, reason="not mounted")
    assert (await client.get("/readyz?exclude=vault")).status == 503
    response = await client.get("/readyz?exclude=vault&exclude=file")
    assert response.status == 200
    assert (await response.json())["dependencies"]["vault"]["reason"] == "sealed"


async def test_excluding_everything_is_not_ready(client: Client, readiness: Readiness) -> None:
    readiness.set("audit", ready=True, reason="")
    assert (await client.get("/readyz?exclude=audit")).status == 503


def test_since_is_the_last_change_of_ready(clock: FakeClock, readiness: Readiness) -> None:
    readiness.set("vault", ready=False, reason="down")
    before = clock.now()
    clock.advance(60)
    readiness.set("vault", ready=False, reason="sealed")
    assert (readiness.snapshot()["vault"].since, readiness.snapshot()["vault"].reason) == (before, "sealed")
    readiness.set("vault", ready=True, reason="")
    assert readiness.snapshot()["vault"].since == before + 60


def test_readiness_is_a_metric(readiness: Readiness) -> None:
    readiness.set("vault", ready=True, reason="")
    labels = {"dependency": "vault"}
    assert readiness._metrics.registry.get_sample_value("broker_dependency_ready", labels) == 1


@pytest.mark.parametrize(
    ("accept", "content_type", "end"),
    [
        ("", "text/plain; version=0.0.4", b"\n"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0", b"# EOF\n"),
    ],
)
async def test_metrics_speak_both_formats(client: Client, accept: str, content_type: str, end: bytes) -> None:
    response = await client.get("/metrics", headers={"Accept": accept})
    assert response.headers["Content-Type"].startswith(content_type)
    body = await response.read()
    assert b"broker_build_info{" in body
    assert body.endswith(end)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "route_unknown"),
        ("POST", "/metrics", 405, "method_unknown"),
    ],
)
async def test_everything_else_is_a_problem(client: Client, method: str, path: str, status: int, code: str) -> None:
    response = await client.request(method, path)
    assert (response.status, (await response.json(content_type=None))["code"]) == (status, code)
