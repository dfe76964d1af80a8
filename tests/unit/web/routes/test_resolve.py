"""`POST /v1/resolve` over HTTP: every bad body, every failure, and what an answer looks like."""

import asyncio
import gc
import gzip
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import ValidationError

from broker.audit.event import Outcome
from broker.errors import IdentityRefusedError, IdentityRefusedReason, SourceUnavailableError
from broker.limits.in_flight import InFlight
from broker.limits.throttle import Throttle
from broker.logs import EventRecord
from broker.policy.decision import Allow
from broker.secret import Reading, SecretDocument
from broker.web.applications import build_agent_app
from broker.web.body import BodyLimits
from broker.web.callers import AgentDoor
from broker.web.known_bodies import KnownBodies
from broker.web.middleware import request_id_of
from broker.web.routes.resolve import RESOLVE_PATH, resolve_route
from broker.web.schemas import ResolveRequest
from tests.fakes import (
    FakeClock,
    FakePeers,
    FakePolicy,
    FakeProvider,
    FakeTrail,
    fake_metrics,
    fake_peer,
    fields_reading,
    text_reading,
)
from tests.resolving import admission_of, resolving

KEY = "vault:secret/app#key"
CANARY = "canary-6f1b"
JSON = {"Content-Type": "application/json"}


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = fake_metrics()
        self.vault = FakeProvider({"secret/app": fields_reading(key=CANARY, port=1.50, tags=["a", {"b": None}])})
        self.env = FakeProvider({"PAT": text_reading("pat"), "RAW": text_reading("x")})
        self.policy = FakePolicy({"vault:secret/app": Allow("r", 300, 3600), "env:": Allow("r", 300, 0)})
        self.trail = FakeTrail()
        self.peers = FakePeers()
        self.limits = BodyLimits(seconds=0.2)
        self.in_flight = InFlight.unlimited()
        self.hosts: frozenset[str] | None = None
        self.client: TestClient[web.Request, web.Application]

    def app(self) -> web.Application:
        common: Any = {"policy": self.policy, "trail": self.trail, "metrics": self.metrics, "clock": self.clock}
        self.admission = admission_of(**common, per_second=1, burst=1000)
        providers = {"vault": self.vault, "env": self.env}
        resolve, _ = resolving(**common, admission=self.admission, providers=providers)

        async def bug(request: web.Request) -> web.Response:
            raise RuntimeError(f"{CANARY} {request_id_of(request)}")

        async def keys(_request: web.Request) -> web.Response:
            return web.json_response({}, headers={"Cache-Control": "max-age=300"})

        door = AgentDoor(peers=self.peers, clock=self.clock, admission=self.admission, in_flight=self.in_flight)
        return build_agent_app(
            routes=[
                resolve_route(resolve=resolve, door=door, clock=self.clock, limits=self.limits),
                web.post("/bug", bug),
                web.get("/keys", keys, allow_head=False),
            ],
            clock=self.clock,
            metrics=self.metrics,
            max_body_bytes=self.limits.max_bytes,
            allowed_hosts=self.hosts,
        )

    async def start(self, app: web.Application | None = None) -> None:
        server = TestServer(app or self.app())
        await server.start_server(access_log=None, auto_decompress=False)
        self.client = TestClient(server)

    async def post(self, data: Any, **headers: str) -> tuple[int, dict[str, Any], Any]:
        response = await self.client.post(RESOLVE_PATH, data=data, headers={**JSON, **headers})
        body = await response.read()
        assert response.headers["Server"] == "broker"
        assert response.headers["Cache-Control"] == "no-store"
        return response.status, json.loads(body), response.headers

    async def ask(self, *references: str, **members: object) -> tuple[int, dict[str, Any], Any]:
        return await self.post(json.dumps({"references": references, **members}))

    async def raw(self, data: bytes) -> bytes:
        server = self.client.server
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(data)
        await writer.drain()
        try:
            return await asyncio.wait_for(reader.read(65536), 5)
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.start()
    yield made
    await made.client.close()


def body_of(*references: str, **members: object) -> bytes:
    return json.dumps({"references": references, **members}).encode()


async def test_an_answer_has_the_values_in_order_with_their_clocks(bench: Bench) -> None:
    status, answer, headers = await bench.ask("${PAT}", KEY)
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert answer["results"][0] == {
        "reference": "${PAT}",
        "status": "ok",
        "value": "pat",
        "encoding": "utf-8",
        "version": None,
        "fetched_at": "2027-01-15T08:00:00.000Z",
        "fresh_until": "2027-01-15T08:05:00.000Z",
        "stale_until": "2027-01-15T08:05:00.000Z",
        "lease": None,
    }
    assert answer["results"][1]["value"] == CANARY
    assert answer["results"][1]["version"] == "1"


async def test_each_encoding_is_written_so_that_nothing_is_lost(bench: Bench) -> None:
    bench.env.sources["RAW"] = Reading(SecretDocument.of_bytes(b"\x00\xff"))
    status, answer, _ = await bench.ask("vault:secret/app#port", "vault:secret/app#tags", "env:RAW")
    assert status == 200
    assert [(result["value"], result["encoding"]) for result in answer["results"]] == [
        (1.5, "json"),
        (["a", {"b": None}], "json"),
        ("AP8=", "base64"),
    ]


async def test_a_body_that_is_known_is_decided_and_recorded_anew(bench: Bench) -> None:
    for _ in range(2):
        status, answer, _ = await bench.ask(KEY)
        assert (status, answer["results"][0]["value"]) == (200, CANARY)
    bench.policy.allowed.clear()
    status, answer, _ = await bench.ask(KEY)
    assert (status, answer["code"]) == (403, "reference_denied")
    assert [event.outcome for event in bench.trail.events] == [Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILURE]


def test_bodies_are_known_up_to_a_number_and_a_size() -> None:
    bodies = KnownBodies()
    for number in range(513):
        raw = body_of(f"env:N{number}")
        bodies.remember(raw, bodies.read(raw))
    assert len(bodies) == 1
    large = body_of("env:" + "N" * 9000)
    bodies.remember(large, bodies.read(large))
    assert len(bodies) == 1


async def test_a_body_with_what_is_no_reference_is_not_kept(bench: Bench) -> None:
    def kept() -> int:
        return sum(len(thing) for thing in gc.get_objects() if isinstance(thing, KnownBodies))

    before = kept()
    for references in ([f"{CANARY}-no-reference"], [KEY, f"{CANARY}-no-reference"]):
        await bench.ask(*references, require="any")
    assert kept() == before
    await bench.ask(KEY, require="any")
    assert kept() == before + 1


REFUSED_BODIES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"references=x", "body_not_json"),
    "duplicate keys": (b'{"references": ["$PAT"], "references": ["$PAT"]}', "body_not_json"),
    "NaN": (b'{"references": [NaN]}', "body_not_json"),
    "10^5 nested": (b"[" * 100_000, "body_not_json"),
    "BOM": (b"\xef\xbb\xbf" + body_of("$PAT"), "body_not_json"),
    "UTF-16": (body_of("$PAT").decode().encode("utf-16"), "body_not_json"),
    "empty": (b"", "body_not_json"),
    "a list": (b'["$PAT"]', "request_invalid"),
    "null": (b"null", "request_invalid"),
    "references a string": (b'{"references": "$PAT"}', "request_invalid"),
    "a number as reference": (b'{"references": [1]}', "request_invalid"),
    "require a boolean": (body_of("$PAT", require=True), "request_invalid"),
    "a negative age": (body_of("$PAT", max_age=-1), "request_invalid"),
    "an age as text": (body_of("$PAT", max_age="1"), "request_invalid"),
    "version 0": (body_of("$PAT", min_versions={"$PAT": 0}), "request_invalid"),
    "the version of what is not asked": (body_of("$PAT", min_versions={"env:RAW": 1}), "request_invalid"),
    "require unknown": (body_of("$PAT", require="ALL"), "request_invalid"),
    "unknown field": (body_of("$PAT", **{CANARY: 1}), "request_invalid"),
    "no references": (b"{}", "request_invalid"),
    "empty list": (body_of(), "reference_count"),
    "257 references": (body_of(*["$PAT"] * 257), "reference_count"),
}


@pytest.mark.parametrize(("body", "code"), REFUSED_BODIES.values(), ids=REFUSED_BODIES.keys())
async def test_a_bad_body_gets_400_with_its_code(bench: Bench, body: bytes, code: str) -> None:
    status, answer, headers = await bench.post(body)
    assert (status, answer["code"], answer["status"]) == (400, code, 400)
    assert headers["Content-Type"] == "application/problem+json"
    assert answer["type"] == f"urn:logflux-broker:error:{code}"
    assert answer["instance"] == headers["X-Request-Id"]
    assert CANARY not in json.dumps(answer)
    assert bench.trail.events == []


async def test_a_lone_surrogate_is_a_malformed_reference_and_comes_back_as_it_was(bench: Bench) -> None:
    status, answer, _ = await bench.post(b'{"references": ["env:\\ud800"]}')
    assert (status, answer["code"]) == (400, "reference_malformed")
    assert answer["results"][0]["reference"] == "env:\ud800"


async def test_a_body_of_exactly_the_limit_is_read(bench: Bench) -> None:
    body = body_of("$PAT")
    assert (await bench.post(body + b" " * (256 * 1024 - len(body))))[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_gets_413_declared_or_not(bench: Bench, chunked: bool) -> None:
    body = body_of("$PAT") + b" " * (256 * 1024)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    status, answer, _ = await bench.post(chunks() if chunked else body)
    assert (status, answer["code"]) == (413, "body_too_large")


async def test_a_declared_length_over_the_limit_is_refused_before_a_byte_arrives(bench: Bench) -> None:
    answer = await bench.raw(_head("Content-Length: 10737418240", "Expect: 100-continue"))
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_body_is_invited_when_its_length_is_within_the_limit(bench: Bench) -> None:
    answer = await bench.raw(_head("Content-Length: 20", "Expect: 100-continue"))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"]
)
async def test_another_content_type_gets_415(bench: Bench, kind: str) -> None:
    status, answer, _ = await bench.post(body_of("$PAT"), **{"Content-Type": kind})
    assert (status, answer["code"]) == (415, "content_type_unsupported")


async def test_json_in_utf8_may_say_so(bench: Bench) -> None:
    assert (await bench.post(body_of("$PAT"), **{"Content-Type": "Application/JSON; charset=UTF-8"}))[0] == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity"])
async def test_an_encoded_body_gets_415_and_is_not_unpacked(bench: Bench, coding: str) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    status, answer, _ = await bench.post(bomb, **{"Content-Encoding": coding})
    assert (status, answer["code"]) == (415, "content_encoding_unsupported")


async def test_a_slow_body_gets_408_and_the_connection_closes(bench: Bench) -> None:
    answer = await bench.raw(_head("Content-Length: 100") + b'{"refer')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body_timeout" in answer
    assert b"Connection: close" in answer


async def test_a_large_body_for_which_there_is_no_room_is_refused_with_a_time_to_come_again() -> None:
    budgets = InFlight.of(2 * 1024 * 1024, fake_metrics())
    bench = Bench()
    bench.limits, bench.in_flight = BodyLimits(seconds=0.1), budgets
    await bench.start()
    held = budgets.bodies.take_or_refuse(fake_peer().name, budgets.bodies.most)
    slow = _head("Content-Length: 200000") + b'{"refer'
    answer = await bench.raw(slow)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"in_flight_limit" in answer
    assert b"Retry-After: " in answer
    # One that came with its head, as nearly every one does, waits for nobody.
    assert (await bench.ask("$PAT"))[0] == 200
    held.give_back()
    assert (await bench.raw(slow)).startswith(b"HTTP/1.1 408 ")
    await bench.client.close()


async def test_a_body_that_ends_early_is_not_acted_on(bench: Bench) -> None:
    server = bench.client.server
    _, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(_head("Content-Length: 100") + b'{"references": ["$PAT"]}')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await bench.ask("$PAT"))[0] == 200
    assert len(bench.trail.events) == 1


def _head(*lines: str, version: str = "1.1", target: str = RESOLVE_PATH, host: str = "h") -> bytes:
    fixed = (f"POST {target} HTTP/{version}", f"Host: {host}", "Content-Type: application/json")
    return "\r\n".join((*fixed, *lines, "", "")).encode()


async def test_with_all_a_failure_lists_every_failing_reference_and_no_value(bench: Bench) -> None:
    status, answer, _ = await bench.ask(KEY, "vault:secret/app#none", "vault:secret/foreign#x", "a word")
    assert (status, answer["code"]) == (400, "reference_malformed")
    assert [(result["reference"], result["status"]) for result in answer["results"]] == [
        ("vault:secret/app#none", "missing"),
        ("vault:secret/foreign#x", "denied"),
        ("a word", "invalid"),
    ]
    assert "position" in answer["results"][2]
    assert "value" not in json.dumps(answer["results"])
    assert CANARY not in json.dumps(answer)


@pytest.mark.parametrize(
    ("references", "status", "code"),
    [
        ((KEY, "a word", "env:NONE", "vault:secret/foreign#x"), 400, "reference_malformed"),
        ((KEY, "env:NONE", "vault:secret/foreign#x"), 403, "reference_denied"),
        ((KEY, "env:DOWN", "env:NONE"), 404, "secret_missing"),
        ((KEY, "env:DOWN"), 503, "source_unavailable"),
    ],
)
async def test_the_worst_failure_names_the_status(
    bench: Bench, references: tuple[str, ...], status: int, code: str
) -> None:
    bench.env.sources["DOWN"] = SourceUnavailableError("down", retry_after=20)
    found, answer, headers = await bench.ask(*references)
    assert (found, answer["code"]) == (status, code)
    assert ("Retry-After" in headers) == (status == 503)
    if status == 503:
        assert 20 <= int(headers["Retry-After"]) <= 30
        assert answer["results"][0]["retry_after"] == 20


async def test_with_any_failures_stand_beside_values(bench: Bench) -> None:
    status, answer, _ = await bench.ask("vault:secret/foreign#x", KEY, require="any")
    assert status == 200
    assert [result["status"] for result in answer["results"]] == ["denied", "ok"]
    assert "value" not in answer["results"][0]


async def test_denied_tells_the_same_whether_the_secret_exists_or_not(bench: Bench) -> None:
    await bench.ask(KEY)
    bench.policy.allowed.clear()
    results = []
    for reference in (KEY, "vault:secret/no#key"):
        status, answer, _ = await bench.ask(reference)
        results.append((status, answer["code"], answer["detail"], answer["results"][0]["detail"]))
    assert results[0] == results[1]
    assert len(bench.vault.fetched) == 1


async def test_a_failing_trail_gives_503_and_no_value(bench: Bench) -> None:
    bench.trail.full = True
    status, answer, headers = await bench.ask(KEY)
    assert (status, answer["code"]) == (503, "audit_unavailable")
    assert int(headers["Retry-After"]) >= 1
    assert CANARY not in json.dumps(answer)


async def test_the_event_is_durable_before_the_answer_begins(bench: Bench) -> None:
    order: list[str] = []
    bench.trail.on_append = lambda: order.append("audit")

    async def answering(_request: web.Request, response: web.StreamResponse) -> None:
        order.append("answer")

    await bench.client.close()
    app = bench.app()
    app.on_response_prepare.append(answering)
    await bench.start(app)
    await bench.ask(KEY)
    assert order == ["audit", "answer"]


async def test_a_hundred_requests_at_once_cost_one_read(bench: Bench) -> None:
    bench.vault.gate = asyncio.Event()
    asking = [asyncio.create_task(bench.ask(KEY)) for _ in range(100)]
    await bench.vault.began.wait()
    # The read is held until every other request has had ample turns of the loop to join it.
    for _ in range(500):
        await asyncio.sleep(0)
    bench.vault.gate.set()
    assert {status for status, _, _ in await asyncio.gather(*asking)} == {200}
    assert len(bench.vault.fetched) == 1


async def test_a_refused_token_gets_401_with_a_challenge(bench: Bench) -> None:
    status, answer, headers = await bench.post(body_of(KEY), Authorization="bearer forged")
    assert (status, answer["code"]) == (401, "invalid_token")
    assert headers["WWW-Authenticate"] == 'Bearer realm="broker", error="invalid_token"'


@pytest.mark.parametrize("value", ["Basic dTpw", "Bearer", "Bearer ", "forged"])
async def test_an_unusable_authorization_header_gets_400(bench: Bench, value: str) -> None:
    status, answer, headers = await bench.post(body_of(KEY), Authorization=value)
    assert (status, answer["code"]) == (400, "authorization_malformed")
    assert 'error="invalid_request"' in headers["WWW-Authenticate"]


async def test_two_authorization_headers_get_400(bench: Bench) -> None:
    answer = await bench.raw(_head("Authorization: Bearer a", "Authorization: Bearer b", "Content-Length: 2") + b"{}")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"authorization_malformed" in answer


async def test_a_token_in_the_query_is_refused(bench: Bench) -> None:
    response = await bench.client.post(f"{RESOLVE_PATH}?access_token={CANARY}", data=body_of(KEY), headers=JSON)
    text = await response.text()
    assert (response.status, json.loads(text)["code"]) == (400, "query_unexpected")
    assert CANARY not in text


async def test_a_certificate_that_is_no_identity_gets_401_and_is_recorded(bench: Bench) -> None:
    bench.peers.refusal = IdentityRefusedError("two URI SANs", reason=IdentityRefusedReason.TWO_URI_SANS)
    status, answer, headers = await bench.ask(KEY)
    assert (status, answer["code"]) == (401, "identity_refused")
    assert "WWW-Authenticate" in headers
    assert bench.trail.events[0].reason == "two_uri_sans"


async def test_an_unknown_route_and_method_are_problems(bench: Bench) -> None:
    response = await bench.client.get("/nothing")
    assert (response.status, (await response.json(content_type=None))["code"]) == (404, "route_unknown")
    response = await bench.client.get(RESOLVE_PATH)
    assert (response.status, (await response.json(content_type=None))["code"]) == (405, "method_unknown")
    assert response.headers["Allow"] == "POST"
    assert response.headers["Server"] == "broker"


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "OPTIONS", "HEAD", "PUT"])
async def test_only_named_methods_are_answered(bench: Bench, method: str) -> None:
    answer = await bench.raw(f"{method} {RESOLVE_PATH} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] in {b"400", b"404", b"405"}


async def test_another_host_gets_421(bench: Bench) -> None:
    await bench.client.close()
    bench.hosts = frozenset({"Broker.example:8443"})
    await bench.start()
    for host, status in (("broker.EXAMPLE:8443", b"200"), ("evil", b"421"), ("evil@x:99/..", b"421")):
        body = body_of("$PAT")
        answer = await bench.raw(_head(f"Content-Length: {len(body)}", "Connection: close", host=host) + body)
        assert answer.split(b" ", 2)[1] == status


async def test_the_absolute_form_gets_421(bench: Bench) -> None:
    answer = await bench.raw(_head("Content-Length: 2", target=f"http://evil.example{RESOLVE_PATH}") + b"{}")
    assert answer.startswith(b"HTTP/1.1 421 ")


async def test_http_1_0_is_refused(bench: Bench) -> None:
    answer = await bench.raw(_head("Content-Length: 2", version="1.0") + b"{}")
    assert b" 505 " in answer.splitlines()[0]
    assert b"http_version_unsupported" in answer


async def test_a_bug_is_answered_by_fixed_text_and_logged_without_its_own(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    response = await bench.client.post("/bug")
    answer = await response.text()
    assert (response.status, json.loads(answer)["code"]) == (500, "internal")
    assert CANARY not in answer + caplog.text
    assert json.loads(answer)["instance"] in caplog.text
    assert "RuntimeError" in caplog.text


async def test_a_route_may_say_how_long_its_answer_keeps(bench: Bench) -> None:
    assert (await bench.client.get("/keys")).headers["Cache-Control"] == "max-age=300"


async def test_the_log_line_and_the_metrics_hold_nothing_that_a_caller_wrote(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="broker.request")
    await bench.ask(KEY, "$PAT")
    await bench.client.get(f"/{CANARY}")
    assert CANARY not in caplog.text
    assert "secret/app" not in caplog.text
    assert "route=/v1/resolve status=200" in caplog.text
    assert "route=other status=404" in caplog.text
    count = bench.metrics.registry.get_sample_value
    assert count("broker_requests_total", {"route": RESOLVE_PATH, "status": "200"}) == 1
    assert count("broker_requests_total", {"route": "other", "status": "404"}) == 1


async def test_the_line_of_a_request_tells_who_what_came_of_it_and_how_many_of_each(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="broker.request")
    _, _, headers = await bench.ask(KEY, "$PAT")
    bench.policy.allowed.clear()
    await bench.ask(KEY, "no reference")
    first, second = [record.fields for record in caplog.records if isinstance(record, EventRecord)]
    assert first["request"] == headers["X-Request-Id"]
    assert first["identity"] == bench.peers.peer.name
    assert (first["status"], first["outcome"], first["references"]) == (200, "ok", {"ok": 2})
    assert isinstance(first["milliseconds"], float)
    assert isinstance(first["body_milliseconds"], float)
    assert (second["outcome"], second["references"]) == ("reference_malformed", {"denied": 1, "invalid": 1})


async def test_references_are_logged_at_debug_alone_and_what_is_none_never(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for level in (logging.INFO, logging.DEBUG):
        caplog.set_level(level, logger="broker.request")
        await bench.ask(KEY, "$PAT")
        await bench.ask("$PAT", CANARY)
    shown = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert [record.fields["references"] for record in shown if isinstance(record, EventRecord)] == [
        [f"{KEY} ok", "$PAT ok"]
    ]
    assert CANARY not in caplog.text


async def test_a_caller_can_not_choose_the_request_id(bench: Bench) -> None:
    _, _, headers = await bench.post(body_of("$PAT"), **{"X-Request-Id": CANARY})
    assert headers["X-Request-Id"] == bench.trail.events[0].request != CANARY


async def test_the_address_on_record_is_the_sockets(bench: Bench) -> None:
    await bench.post(body_of("$PAT"), **{"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6"})
    assert bench.trail.events[0].address in {"127.0.0.1", "::1"}


FAILURES: dict[str, Callable[[Bench], None]] = {
    "denied": lambda bench: bench.policy.allowed.clear(),
    "missing": lambda bench: bench.vault.sources.update({"secret/app": fields_reading(other=CANARY)}),
    "unavailable": lambda bench: bench.vault.sources.update({"secret/app": SourceUnavailableError("down")}),
    "bug": lambda bench: bench.vault.sources.update({"secret/app": RuntimeError(CANARY)}),
    "audit": lambda bench: setattr(bench.trail, "full", True),
}


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES.keys())
async def test_no_failure_shows_a_value_in_body_header_log_or_metric(
    bench: Bench, caplog: pytest.LogCaptureFixture, fail: Callable[[Bench], None]
) -> None:
    caplog.set_level(logging.DEBUG)
    fail(bench)
    status, answer, headers = await bench.ask(KEY, "$PAT")
    assert status >= 400
    series = [sample for metric in bench.metrics.registry.collect() for sample in metric.samples]
    assert CANARY not in json.dumps(answer) + str(headers) + caplog.text + repr(series) + repr(bench.trail.events)


async def test_an_identity_that_asks_too_often_gets_429_with_the_time_to_wait(bench: Bench) -> None:
    # The bucket of the identity holds one request and gets another each second, while the clock stands still.
    bench.admission._throttle = Throttle(clock=bench.clock, per_second=1, burst=1)
    await bench.post(body_of("$PAT"))
    status, document, headers = await bench.post(body_of("$PAT"))
    assert (status, document["code"]) == (429, "rate_limited")
    assert 1 <= int(headers["Retry-After"]) <= 2


async def test_who_asks_too_often_is_slowed_before_its_body_is_read(bench: Bench) -> None:
    bench.admission._throttle = Throttle(clock=bench.clock, per_second=1, burst=1)
    # A body that is wrong costs as much to read as a good one, and so it counts as much.
    assert (await bench.post(b"{"))[0] == 400
    head = b"POST /v1/resolve HTTP/1.1\r\nHost: broker\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    assert (await bench.raw(head)).startswith(b"HTTP/1.1 429 ")


async def test_a_long_body_counts_as_several_requests(bench: Bench) -> None:
    bench.admission._throttle = Throttle(clock=bench.clock, per_second=1, burst=10)
    assert (await bench.post(body_of(KEY) + b" " * 20_000))[0] == 200
    bench.clock.advance(0.5)
    assert (await bench.post(body_of(KEY)))[0] == 429
    bench.clock.advance(0.5)
    assert (await bench.post(body_of(KEY)))[0] == 200


async def test_a_body_is_read_no_further_than_its_first_text_that_is_none(bench: Bench) -> None:
    # Each of them would be a fault of its own, and a hundred thousand faults take a tenth of a second to collect.
    with pytest.raises(ValidationError) as refused:
        ResolveRequest.model_validate({"references": [1, 2, 3]})
    assert refused.value.error_count() == 1
    status, answer, _ = await bench.post(body_of(*[1] * 3))
    assert (status, answer["detail"]) == (400, "references.0: Input should be a valid string")
