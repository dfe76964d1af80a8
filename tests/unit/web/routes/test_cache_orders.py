"""Orders over HTTP: who may give them, what a bad one gets, and what is on record before anything happens."""

import base64
import hmac
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from broker.errors import IdentityRefusedError, IdentityRefusedReason
from broker.orders.administration import Administration
from broker.orders.cache import OrderCache
from broker.orders.webhook import WebhookVerifier
from broker.reference import Source
from broker.secret import Encoding, SecretValue
from broker.web.applications import build_agent_app, build_operations_app
from broker.web.callers import AgentDoor
from broker.web.routes.administrators import AdministratorDoor
from broker.web.routes.cache_orders import WEBHOOK_PATH, cache_order_routes, webhook_route
from tests.fakes import START, FakeClock, FakePeers, FakePolicy, FakeTrail, fake_metrics

KEY = b"k" * 32
SOURCES = (Source("vault", "secret/app"), Source("vault", "secret/team/a"), Source("env", "A"))


class FakeCache:
    def __init__(self, trail: FakeTrail) -> None:
        self.trail = trail
        self.done: list[tuple[str, list[Source]]] = []

    async def invalidate(self, concerns: Callable[[Source], bool] | None) -> int:
        return self._order("invalidate", concerns)

    async def renew(self, concerns: Callable[[Source], bool] | None) -> int:
        return self._order("refresh", concerns)

    def _order(self, what: str, concerns: Callable[[Source], bool] | None) -> int:
        assert self.trail.events, "an order is on record before it is carried out"
        named = [source for source in SOURCES if concerns is None or concerns(source)]
        self.done.append((what, named))
        return len(named)


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = fake_metrics()
        self.trail = FakeTrail()
        self.policy = FakePolicy(administrator=True)
        self.peers = FakePeers()
        self.cache = FakeCache(self.trail)
        self.refused: list[IdentityRefusedError] = []
        self.agents: TestClient[web.Request, web.Application]
        self.operations: TestClient[web.Request, web.Application]

    async def start(self) -> None:
        administration = Administration(policy=self.policy, trail=self.trail, clock=self.clock)
        orders = OrderCache(administration=administration, cache=self.cache, metrics=self.metrics)
        door = AdministratorDoor(
            administration=administration, agents=AgentDoor(peers=self.peers, clock=self.clock, admission=self)
        )
        agents = build_agent_app(
            routes=cache_order_routes(orders=orders, door=door),
            clock=self.clock,
            metrics=self.metrics,
            max_body_bytes=256 * 1024,
            allowed_hosts=None,
        )
        verifier = WebhookVerifier(keys={"hook.key": SecretValue(KEY, encoding=Encoding.BASE64)}, tolerance_seconds=300)
        operations = build_operations_app(routes=[webhook_route(orders=orders, verifier=verifier, clock=self.clock)])
        self.agents, self.operations = TestClient(TestServer(agents)), TestClient(TestServer(operations))
        await self.agents.start_server()
        await self.operations.start_server()

    async def refuse_identity(self, error: IdentityRefusedError, **_facts: object) -> None:
        self.refused.append(error)

    async def order(self, action: str, body: object, **headers: str) -> tuple[int, dict[str, Any]]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        response = await self.agents.post(f"/v1/cache/{action}", data=raw, headers=headers)
        return response.status, await response.json(content_type=None)

    async def webhook(
        self, body: object, *, key: bytes = KEY, identifier: str = "msg_1", sent: bytes | None = None
    ) -> tuple[int, dict[str, Any]]:
        raw = json.dumps(body).encode()
        digest = hmac.digest(key, f"{identifier}.{int(START)}.".encode() + raw, "sha256")
        headers = {
            "Content-Type": "application/json",
            "webhook-id": identifier,
            "webhook-timestamp": str(int(START)),
            "webhook-signature": "v1," + base64.b64encode(digest).decode(),
        }
        response = await self.operations.post(WEBHOOK_PATH, data=raw if sent is None else sent, headers=headers)
        return response.status, await response.json(content_type=None)

    def counted(self, **labels: str) -> float:
        return self.metrics.registry.get_sample_value("broker_cache_orders_total", labels) or 0.0


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.start()
    yield made
    await made.agents.close()
    await made.operations.close()


@pytest.mark.parametrize("action", ["invalidate", "refresh"])
async def test_an_administrators_order_is_carried_out_and_on_record(bench: Bench, action: str) -> None:
    status, answer = await bench.order(action, {"references": ["vault:secret/app#key", "vault:secret/team/**"]})
    assert (status, answer) == (200, {"sources": 2})
    assert bench.cache.done == [(action, list(SOURCES[:2]))]
    [event] = bench.trail.events
    assert (event.kind, event.outcome, event.identity) == ("cache", "success", bench.peers.peer.name)
    assert event.details == {"way": "administrator", "action": action}
    assert [record.reference for record in event.references] == ["vault:secret/app#key", "vault:secret/team/**"]
    assert bench.counted(action=action, way="administrator", outcome="done") == 1


async def test_an_order_may_be_about_everything(bench: Bench) -> None:
    assert await bench.order("invalidate", {"everything": True}) == (200, {"sources": 3})
    assert bench.trail.events[0].details["patterns"] == "everything"


async def test_who_is_no_administrator_is_refused_before_the_body_is_read_and_on_record(bench: Bench) -> None:
    bench.policy.administrator = False
    status, answer = await bench.order("invalidate", b"no JSON at all")
    assert (status, answer["code"]) == (403, "not_administrator")
    assert bench.cache.done == []
    [event] = bench.trail.events
    assert (event.outcome, event.reason, event.identity) == ("failure", "not_administrator", bench.peers.peer.name)


async def test_a_certificate_that_is_no_identity_gives_no_orders(bench: Bench) -> None:
    bench.peers.refusal = IdentityRefusedError("two", reason=IdentityRefusedReason.TWO_URI_SANS)
    status, answer = await bench.order("invalidate", {"everything": True})
    assert (status, answer["code"]) == (401, "identity_refused")
    assert bench.refused == [bench.peers.refusal]


async def test_a_token_gives_no_orders(bench: Bench) -> None:
    status, answer = await bench.order("refresh", {"everything": True}, Authorization="Bearer x")
    assert (status, answer["code"]) == (400, "authorization_malformed")
    assert bench.cache.done == []


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({}, "request_invalid", "everything"),
        ({"references": []}, "request_invalid", "references"),
        ({"references": ["env:A"], "everything": True}, "request_invalid", "everything"),
        ({"everything": False}, "request_invalid", "everything"),
        ({"references": ["env:A"] * 65}, "request_invalid", "references"),
        ({"references": ["env:A"], "action": "refresh"}, "request_invalid", "not known"),
        ({"references": ["env:A", "vault:x*/y"]}, "pattern_malformed", "references[1], character 8"),
        ({"references": ["a word"]}, "pattern_malformed", "references[0], character 1"),
        ({"references": ["**"]}, "pattern_malformed", "references[0], character 1"),
    ],
)
async def test_a_bad_order_is_refused_with_what_is_wrong(bench: Bench, body: object, code: str, words: str) -> None:
    status, answer = await bench.order("invalidate", body)
    assert (status, answer["code"]) == (400, code)
    assert words in answer["detail"]
    assert bench.cache.done == []


async def test_a_large_body_is_refused(bench: Bench) -> None:
    status, answer = await bench.order("invalidate", {"references": ["env:" + "A" * 70_000]})
    assert (status, answer["code"]) == (413, "body_too_large")


async def test_an_order_that_can_not_be_recorded_is_not_carried_out(bench: Bench) -> None:
    bench.trail.full = True
    status, answer = await bench.order("invalidate", {"everything": True})
    assert (status, answer["code"]) == (503, "audit_unavailable")
    assert bench.cache.done == []


async def test_orders_are_bounded_in_rate(bench: Bench) -> None:
    for _ in range(20):
        assert (await bench.order("refresh", {"everything": True}))[0] == 200
    status, answer = await bench.order("refresh", {"everything": True})
    assert (status, answer["code"]) == (429, "order_rate")
    assert len(bench.cache.done) == 20
    assert bench.counted(action="refresh", way="administrator", outcome="limited") == 1
    bench.clock.advance(1)
    assert (await bench.order("refresh", {"everything": True}))[0] == 200


async def test_refusals_neither_flood_the_trail_nor_shut_administrators_out(bench: Bench) -> None:
    bench.policy.administrator = False
    statuses = [(await bench.order("refresh", {"everything": True}))[0] for _ in range(25)]
    assert statuses == [403] * 20 + [429] * 5
    assert len(bench.trail.events) == 20
    assert bench.counted(action="none", way="administrator", outcome="refused") == 25
    bench.policy.administrator = True
    assert (await bench.order("refresh", {"everything": True}))[0] == 200


async def test_a_signed_webhook_is_carried_out_with_its_key_on_record(bench: Bench) -> None:
    assert await bench.webhook({"action": "refresh", "references": ["vault:secret/app"]}) == (200, {"sources": 1})
    assert bench.cache.done == [("refresh", [SOURCES[0]])]
    [event] = bench.trail.events
    assert (event.identity, event.details) == ("", {"way": "webhook", "key": "hook.key", "action": "refresh"})


async def test_a_webhook_counts_once(bench: Bench) -> None:
    await bench.webhook({"action": "refresh", "everything": True})
    status, answer = await bench.webhook({"action": "refresh", "everything": True})
    assert (status, answer["code"]) == (401, "webhook_refused")
    assert len(bench.cache.done) == 1
    assert bench.trail.events[-1].reason == "replayed"


async def test_a_webhook_that_could_not_be_recorded_may_come_again(bench: Bench) -> None:
    bench.trail.full = True
    assert (await bench.webhook({"action": "refresh", "everything": True}))[0] == 503
    bench.trail.full = False
    assert (await bench.webhook({"action": "refresh", "everything": True}))[0] == 200


async def test_a_forged_webhook_is_refused_and_on_record(bench: Bench) -> None:
    status, answer = await bench.webhook({"action": "invalidate", "everything": True}, key=b"x" * 32)
    assert (status, answer["code"]) == (401, "webhook_refused")
    assert bench.cache.done == []
    [event] = bench.trail.events
    assert (event.outcome, event.reason, event.details) == ("failure", "signature", {"way": "webhook"})


async def test_the_signature_is_over_the_bytes_and_not_over_what_they_mean(bench: Bench) -> None:
    body = {"action": "invalidate", "everything": True}
    status, _ = await bench.webhook(body, sent=json.dumps(body, indent=1).encode())
    assert status == 401


@pytest.mark.parametrize("body", [{"everything": True}, {"action": "drop", "everything": True}])
async def test_a_webhook_names_its_action(bench: Bench, body: object) -> None:
    status, answer = await bench.webhook(body)
    assert (status, answer["code"]) == (400, "request_invalid")
    assert "action" in answer["detail"]


async def test_an_unsigned_post_is_refused(bench: Bench) -> None:
    response = await bench.operations.post(WEBHOOK_PATH, json={"action": "invalidate", "everything": True})
    assert response.status == 401
    assert (await response.json(content_type=None))["code"] == "webhook_refused"
    assert response.headers["WWW-Authenticate"] == "Webhook-Signature"
