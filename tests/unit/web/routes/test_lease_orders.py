"""Orders about leases over HTTP: who may give them, what they take back, and what is told of what is left."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from broker.errors import NotAdministratorError, SourceUnavailableError, UpstreamDeniedError
from broker.orders.administration import Administration, Origin
from broker.orders.leases import OrderLeases, Selection
from broker.reference import parse
from broker.web.applications import build_agent_app
from broker.web.callers import AgentDoor
from broker.web.routes.administrators import AdministratorDoor
from broker.web.routes.lease_orders import REVOKE_PATH, lease_order_routes
from tests.fakes import FakePeers, fake_peer
from tests.lease_desk import Desk

SHIPPER, STRANGER = "spiffe://prod.example/shipper", "spiffe://prod.example/stranger"
OTHER = parse("vault:pki/issue/agent?common_name=a.example#certificate").source


class Bench:
    """Three leases: two of one identity, and one of another."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.desk.policy.administrator = True
        self.peers = FakePeers()
        self.client: TestClient[web.Request, web.Application]

    async def start(self) -> None:
        for name, source in ((SHIPPER, None), (SHIPPER, OTHER), (STRANGER, None)):
            await (self.desk.get(name) if source is None else self.desk.get(name, source))
        administration = Administration(policy=self.desk, trail=self.desk.trail, clock=self.desk.clock)
        self.orders = OrderLeases(administration=administration, leases=self.desk.leases, metrics=self.desk.metrics)
        door = AdministratorDoor(
            administration=administration, agents=AgentDoor(peers=self.peers, clock=self.desk.clock, admission=None)
        )
        app = build_agent_app(
            routes=lease_order_routes(orders=self.orders, door=door),
            clock=self.desk.clock,
            metrics=self.desk.metrics,
            max_body_bytes=256 * 1024,
            allowed_hosts=None,
        )
        self.client = TestClient(TestServer(app))
        await self.client.start_server()
        self.desk.trail.events.clear()

    async def order(self, body: object, **headers: str) -> tuple[int, dict[str, Any]]:
        headers = {"Content-Type": "application/json", **headers}
        response = await self.client.post(REVOKE_PATH, data=json.dumps(body), headers=headers)
        return response.status, await response.json(content_type=None)

    def left(self) -> list[tuple[str, str]]:
        """Return whose leases are still handed out."""
        return sorted(
            (name, record.source)
            for name in (SHIPPER, STRANGER)
            for record in self.desk.leases.of(fake_peer(name))
            if record.state == "live"
        )

    def counted(self, outcome: str) -> float:
        value = self.desk.metrics.registry.get_sample_value("broker_lease_orders_total", {"outcome": outcome})
        return value or 0.0


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.start()
    yield made
    await made.client.close()


ALL = [
    (SHIPPER, "vault:database/creds/app"),
    (SHIPPER, "vault:pki/issue/agent?common_name=a.example"),
    (STRANGER, "vault:database/creds/app"),
]


@pytest.mark.parametrize(
    ("named", "left"),
    [
        ({"identity": SHIPPER}, ALL[2:]),
        ({"references": ["vault:database/creds/app"]}, ALL[1:2]),
        ({"references": ["vault:database/creds/app#password", "vault:pki/**"]}, []),
        ({"everything": True}, []),
        ({"identity": "spiffe://prod.example/nobody"}, ALL),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_named_is_taken_back_and_nothing_else(
    bench: Bench, named: dict[str, Any], left: list[tuple[str, str]]
) -> None:
    assert bench.left() == ALL
    gone = len(ALL) - len(left)
    assert await bench.order(named) == (200, {"leases": gone, "revoked": gone, "revoking": []})
    assert bench.left() == left
    assert len(bench.desk.mint.leases) == len(left)
    assert bench.counted("done") == 1


async def test_one_lease_is_taken_back_by_its_id_and_an_unknown_one_is_told(bench: Bench) -> None:
    [record] = bench.desk.leases.of(fake_peer(STRANGER))
    assert await bench.order({"lease": record.id}) == (200, {"leases": 1, "revoked": 1, "revoking": []})
    assert bench.left() == ALL[:2]
    status, answer = await bench.order({"lease": record.id})
    assert (status, answer["code"]) == (404, "lease_unknown")


async def test_an_order_is_on_record_with_who_gave_it_before_anything_is_done(bench: Bench) -> None:
    await bench.order({"identity": STRANGER})
    first, *others = bench.desk.trail.events
    assert (first.kind, first.outcome, first.reason, first.identity) == ("lease", "success", "ordered", SHIPPER)
    assert first.details == {"action": "revoke", "of": STRANGER}
    assert [(event.reason, event.references[0].reason) for event in others] == [("revoked", "ordered")]
    await bench.order({"references": ["vault:pki/**"]})
    assert [record.reference for record in bench.desk.trail.events[2].references] == ["vault:pki/**"]
    await bench.order({"everything": True})
    assert bench.desk.trail.events[4].details == {"action": "revoke", "leases": "everything"}


async def test_nothing_is_done_that_can_not_be_put_on_record(bench: Bench) -> None:
    bench.desk.trail.full = True
    status, answer = await bench.order({"everything": True})
    assert (status, answer["code"]) == (503, "audit_unavailable")
    assert bench.left() == ALL
    assert "revoke" not in bench.desk.mint.calls


@pytest.mark.parametrize(
    "error",
    [SourceUnavailableError("the database may be away"), UpstreamDeniedError("the store does not let the broker")],
)
async def test_what_the_store_does_not_revoke_is_told_with_the_reason_and_tried_until_it_is_gone(
    bench: Bench, error: SourceUnavailableError | UpstreamDeniedError
) -> None:
    bench.desk.mint.fails["revoke"] = error
    status, answer = await bench.order({"identity": STRANGER})
    [left] = answer["revoking"]
    assert (status, answer["leases"], answer["revoked"]) == (200, 1, 0)
    assert (left["code"], left["detail"]) == (error.code, error.detail)
    assert bench.left() == ALL[:2], "it is handed out no longer all the same"
    # A second order tries again at once.
    del bench.desk.mint.fails["revoke"]
    assert await bench.order({"lease": left["id"]}) == (200, {"leases": 1, "revoked": 1, "revoking": []})


async def test_who_is_no_administrator_may_not_and_that_is_on_record(bench: Bench) -> None:
    bench.desk.policy.administrator = False
    status, answer = await bench.order({"everything": True})
    assert (status, answer["code"]) == (403, "not_administrator")
    assert bench.left() == ALL
    [event] = bench.desk.trail.events
    assert (event.kind, event.outcome, event.reason, event.identity) == (
        "lease",
        "failure",
        "not_administrator",
        SHIPPER,
    )
    assert bench.counted("refused") == 1


async def test_policy_is_asked_again_when_the_order_has_been_read(bench: Bench) -> None:
    bench.desk.policy.administrator = False
    origin = Origin(identity=SHIPPER, address="127.0.0.1", request="r")
    with pytest.raises(NotAdministratorError):
        await bench.orders.revoke(Selection(everything=True), peer=fake_peer(), origin=origin)
    assert bench.left() == ALL


async def test_an_order_that_names_nothing_takes_nothing_back(bench: Bench) -> None:
    origin = Origin(identity=SHIPPER, address="127.0.0.1", request="r")
    done = await bench.orders.revoke(Selection(), peer=fake_peer(), origin=origin)
    assert done.leases == 0
    assert bench.left() == ALL


async def test_a_token_gives_no_orders(bench: Bench) -> None:
    status, answer = await bench.order({"everything": True}, Authorization="Bearer x")
    assert (status, answer["code"]) == (400, "authorization_malformed")
    assert bench.left() == ALL


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"everything": False},
        {"everything": True, "identity": SHIPPER},
        {"lease": "lease_a", "references": ["vault:a/b"]},
        {"identity": ""},
        {"lease": 7},
        {"references": []},
        {"references": ["vault:a/b"] * 65},
        {"references": ["vault:a//b"]},
        {"who": SHIPPER},
        [],
    ],
    ids=lambda body: str(body)[:40],
)
async def test_an_order_that_names_none_or_two_or_nonsense_is_refused(bench: Bench, body: object) -> None:
    status, _ = await bench.order(body)
    assert status == 400
    assert bench.left() == ALL
    assert bench.desk.trail.events == []


async def test_more_orders_than_a_person_gives_are_put_off(bench: Bench) -> None:
    found = [(await bench.order({"identity": "nobody"}))[0] for _ in range(21)]
    assert found == [200] * 20 + [429]
    assert bench.counted("limited") == 1
