"""`POST /v1/watch` over a real connection: what ends it, what refuses it, what it costs."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from broker.audit.event import EventKind, Outcome
from broker.errors import IdentityRefusedError, IdentityRefusedReason, SourceMintsError
from broker.leases.held import Asker
from broker.limits.throttle import Throttle
from broker.policy.decision import Allow
from broker.reference import Reference, Source, parse
from broker.watch import WatchReferences
from broker.watch_limits import WatchLimits
from broker.web.applications import build_agent_app
from broker.web.body import BodyLimits
from broker.web.callers import AgentDoor
from broker.web.routes.watch import WATCH_PATH, WatchHandler, watch_routes
from tests.changing import ChangingStore
from tests.fakes import FakeClock, FakePeers, FakePolicy, FakeTrail, fake_metrics, fake_peer
from tests.resolving import admission_of
from tests.waiting import until

TEXT = "vault:secret/app#key"
APP = parse(TEXT).source


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = fake_metrics()
        self.policy = FakePolicy({"vault:secret/": Allow("read own", 300.0, 3600.0)})
        self.trail = FakeTrail()
        self.peers = FakePeers()
        self.store = ChangingStore()
        self.store.set(APP, 1)
        self.lease: str | None = None
        self.admission = admission_of(policy=self.policy, trail=self.trail, metrics=self.metrics, clock=self.clock)
        door = AgentDoor(peers=self.peers, clock=self.clock, admission=self.admission)
        self.watch = WatchReferences(
            admission=self.admission,
            policy=self.policy,
            feed=self.store.feed,
            leases=self,
            trail=self.trail,
            clock=self.clock,
            limits=WatchLimits(max_references=1000, max_watches=3, max_sources=1002),
        )
        handler = WatchHandler(
            watch=self.watch,
            feed=self.store.feed,
            door=door,
            limits=BodyLimits(max_bytes=4_000_000),
            heartbeat_seconds=0.05,
            write_seconds=0.2,
        )
        app = build_agent_app(
            routes=watch_routes(handler),
            clock=self.clock,
            metrics=self.metrics,
            max_body_bytes=4_000_000,
            allowed_hosts=None,
        )
        self.client: TestClient[web.Request, web.Application] = TestClient(TestServer(app))

    def watched(self, source: Source, asker: Asker, references: Iterable[Reference], *, fresh_for: float) -> str | None:
        assert (asker.peer, fresh_for) == (self.peers.peer, 300.0)
        assert [reference.source for reference in references] == [source]
        return self.lease

    async def open(self, *texts: str, after: str = "", **members: object) -> ClientResponse:
        headers = {"Last-Event-ID": after} if after else {}
        return await self.client.post(WATCH_PATH, json={"references": texts or (TEXT,), **members}, headers=headers)

    async def refused(self, *texts: str) -> tuple[int, dict[str, Any]]:
        response = await self.open(*texts)
        return response.status, await response.json()

    async def until_nobody_watches(self) -> None:
        async with asyncio.timeout(10):
            while self.store.feed._subscriptions:  # noqa: ASYNC110  What is waited for is the other end.
                await asyncio.sleep(0.01)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    async with made.client:
        yield made
        await made.store.feed.aclose()


async def event(response: ClientResponse) -> tuple[str, str, dict[str, Any]]:
    """Return the name, the id and the data of the next event, over any heartbeats."""
    name, position = "", ""
    async with asyncio.timeout(10):
        while True:
            line = (await response.content.readline()).decode().rstrip("\n")
            member, _, value = line.partition(": ")
            if member == "event":
                name = value
            elif member == "id":
                position = value
            elif member == "data":
                return name, position, json.loads(value)


async def test_a_change_is_told_with_its_version_and_an_id_to_go_on_from(bench: Bench) -> None:
    response = await bench.open()
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-store"
    assert (await event(response))[::2] == ("watching", {"resumed": False, "versions": {TEXT: None}})
    await bench.store.feed.compare()
    bench.store.set(APP, 2)
    await bench.store.feed.compare()
    name, position, data = await event(response)
    assert (name, data) == ("change", {"reference": TEXT, "version": "2", "status": "changed"})
    assert position


async def test_a_lease_that_should_be_replaced_is_told_by_its_reference(bench: Bench) -> None:
    made = parse("vault:secret/made#user")
    bench.store.values[made.source] = SourceMintsError("made for its asker")
    bench.lease = "lease_a"
    response = await bench.open(made.text, versions={made.text: "lease_a"})
    assert (await event(response))[0] == "watching"
    await bench.store.feed.compare()
    bench.lease = ""
    await bench.store.feed.compare()
    assert (await event(response))[::2] == ("change", {"reference": made.text, "version": None, "status": "changed"})
    bench.lease = "lease_b"
    await bench.store.feed.compare()
    assert (await event(response))[2]["version"] == "lease_b"


async def test_what_was_missed_is_told_after_the_last_event_that_was_seen(bench: Bench) -> None:
    stays = await bench.open()
    await bench.store.feed.compare()
    bench.store.set(APP, 2)
    await bench.store.feed.compare()
    await event(stays)
    _, position, _ = await event(stays)
    bench.store.set(APP, 3)
    await bench.store.feed.compare()
    again = await bench.open(after=position)
    assert (await event(again))[2] == {"resumed": True, "versions": {TEXT: "3"}}
    assert (await event(again))[2]["version"] == "3"


async def test_each_watch_is_on_record_before_the_stream_begins(bench: Bench) -> None:
    await bench.open()
    record = bench.trail.events[0]
    assert record.kind is EventKind.WATCH
    assert [(one.reference, one.status, one.rule) for one in record.references] == [(TEXT, "watched", "read own")]
    bench.trail.full = True
    assert (await bench.refused())[0] == 503


async def test_one_reference_that_is_denied_or_malformed_refuses_the_watch_and_is_on_record(bench: Bench) -> None:
    status, document = await bench.refused(TEXT, "env:PAT")
    assert (status, document["code"]) == (403, "reference_denied")
    assert [result["reference"] for result in document["results"]] == ["env:PAT"]
    event = bench.trail.events[-1]
    assert (event.outcome, event.reason) == (Outcome.FAILURE, "denied")
    assert [(one.reference, one.status) for one in event.references] == [(TEXT, "withheld"), ("env:PAT", "denied")]
    status, document = await bench.refused("vault:..")
    assert [(one.reference, one.reason) for one in bench.trail.events[-1].references] == [("", "malformed_at_6")]
    assert (status, document["code"]) == (400, "reference_malformed")
    assert not bench.store.feed._subscriptions


@pytest.mark.parametrize("count", [0, 10_000])
async def test_a_watch_on_none_or_on_ten_thousand_references_is_refused(bench: Bench, count: int) -> None:
    response = await bench.client.post(WATCH_PATH, json={"references": [TEXT] * count})
    assert (response.status, (await response.json())["code"]) == (400, "reference_count")


async def test_what_many_watch_is_in_memory_once(bench: Bench) -> None:
    for _ in range(3):
        await bench.open(TEXT, "vault:secret/app#other", "vault:secret/db#key")
    sources = [source for one in bench.store.feed._subscriptions for source in one.sources]
    assert len(sources) == 6
    assert len({id(source) for source in sources}) == 2


async def test_an_identity_has_a_bounded_number_of_watches(bench: Bench) -> None:
    watches = [await bench.open() for _ in range(3)]
    status, document = await bench.refused()
    assert (status, document["code"]) == (429, "rate_limited")
    assert len(bench.trail.events) == 3, "a watch that there is no room for was not begun"
    watches[0].close()
    async with asyncio.timeout(10):
        while (await bench.open()).status != 200:  # noqa: ASYNC110  As above.
            await asyncio.sleep(0.02)


async def test_a_policy_that_no_longer_allows_it_ends_it(bench: Bench) -> None:
    response = await bench.open()
    await event(response)
    # Another policy is another object.
    bench.watch._policy = type("Other", (), {"current": FakePolicy({})})()
    assert await event(response) == ("end", "", {"reason": "denied"})
    await bench.until_nobody_watches()


async def test_the_end_of_the_certificate_ends_it(bench: Bench) -> None:
    response = await bench.open()
    await event(response)
    bench.clock.advance(90_000)
    assert await event(response) == ("end", "", {"reason": "expired"})


async def test_a_certificate_that_is_revoked_ends_it(bench: Bench) -> None:
    response = await bench.open()
    await event(response)
    bench.peers.refusal = IdentityRefusedError("revoked", reason=IdentityRefusedReason.REVOKED)
    assert await event(response) == ("end", "", {"reason": "identity"})


async def test_who_was_revoked_is_not_told_what_changed_after_that(bench: Bench) -> None:
    response = await bench.open()
    await event(response)
    await bench.store.feed.compare()
    bench.peers.refusal = IdentityRefusedError("revoked", reason=IdentityRefusedReason.REVOKED)
    bench.store.set(APP, 2)
    await bench.store.feed.compare()
    assert await event(response) == ("end", "", {"reason": "identity"})


async def test_the_brokers_end_ends_it(bench: Bench) -> None:
    response = await bench.open()
    await event(response)
    await bench.store.feed.aclose()
    assert await event(response) == ("end", "", {"reason": "shutdown"})
    assert await response.content.read() == b"\n"


async def test_there_are_signs_of_life(bench: Bench) -> None:
    response = await bench.open()
    await event(response)
    async with asyncio.timeout(10):
        while await response.content.readline() != b": heartbeat\n":
            pass


async def test_who_never_reads_is_cut_off(bench: Bench) -> None:
    texts = [f"vault:secret/{'x' * 900}/{number}#key" for number in range(1000)]
    sources = [parse(text).source for text in texts]
    body = json.dumps({"references": texts}).encode()
    with socket.socket() as raw:
        raw.setblocking(False)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, (bench.client.host, bench.client.port))
        lines = (
            f"POST {WATCH_PATH} HTTP/1.1",
            "Host: x",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        )
        head = "\r\n".join((*lines, ""))
        await loop.sock_sendall(raw, head.encode() + b"\r\n" + body)
        async with asyncio.timeout(10):
            while not bench.store.feed._subscriptions:  # noqa: ASYNC110  As above.
                await asyncio.sleep(0.01)
        async with asyncio.timeout(20):
            for version in range(1, 1000):
                _set_all(bench.store, sources, version)
                await bench.store.feed.compare()
                await asyncio.sleep(0.05)
                if not bench.store.feed._subscriptions:
                    break
    assert not bench.store.feed._subscriptions


def _set_all(store: ChangingStore, sources: list[Source], version: int) -> None:
    for source in sources:
        store.set(source, version)


async def test_a_watch_counts_as_requests_by_its_length_whether_it_is_one_or_not(bench: Bench) -> None:
    bench.admission._throttle = Throttle(clock=bench.clock, per_second=1, burst=10)
    first = await bench.client.post(WATCH_PATH, data=b"{" + b" " * 20_000, headers={"Content-Type": "application/json"})
    assert first.status == 400
    assert (await bench.refused())[0] == 429
    assert [(event.kind, event.reason) for event in bench.trail.events] == [(EventKind.WATCH, "rate_limited")]


async def test_the_different_secrets_that_one_identity_watches_are_bounded(bench: Bench) -> None:
    many = [f"vault:secret/many/{number}#key" for number in range(1000)]
    first = await bench.open(*many)
    await bench.open(*many[:500], TEXT)
    async with asyncio.timeout(10):
        status, document = await bench.refused("vault:secret/one#a", "vault:secret/more#a")
    assert (status, document["code"]) == (429, "rate_limited")
    assert "1002 different secrets" in document["detail"]
    # What another watch names already costs no second look, and neither does another field of it.
    last = await bench.open("vault:secret/one#a", "vault:secret/one#b", many[0])
    first.close()
    last.close()
    await until(lambda: len(bench.watch._watchers._held[fake_peer().name].sources) == 501)
