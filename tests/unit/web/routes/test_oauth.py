"""`POST /oauth2/token` over HTTP: what is counted, what closes, and what is no matter of OAuth."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from broker.audit.event import EventKind
from broker.errors import IdentityRefusedError, IdentityRefusedReason, ThrottledError
from broker.identity import PeerIdentity
from broker.issue import IssueToken
from broker.peer_address import Address
from broker.policy.current import CurrentPolicy
from broker.policy.engine import compile_policy
from broker.tokens import SigningKey, public_jwks
from broker.web.callers import AgentDoor
from broker.web.middleware import Edge, finish
from broker.web.routes.oauth import TOKEN_PATH, metadata, oauth_routes
from tests.fakes import FakeClock, FakePeers, FakeTrail, fake_metrics, fake_peer

ISSUER = "https://broker.example:8443"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
GOOD = {"grant_type": "client_credentials", "client_id": fake_peer().name, "scope": "env:A"}
KEY = SigningKey(SigningKey.generate_pem())
POLICY = """\
identities:
  shipper: { spiffe: "spiffe://prod.example/shipper", environment: production }
rules:
  - { name: one, allow: ["env:A", "vault:secret/a b#*"], to: [shipper] }
"""
SAFE = {chr(code) for code in range(0x20, 0x7F)} - {'"', "\\"}


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = fake_metrics()
        self.trail = FakeTrail()
        self.peers = FakePeers()
        self.refused: list[str] = []
        self.asks_too_often = False
        self.client: TestClient[web.Request, web.Application]

    async def refuse_identity(self, error: IdentityRefusedError, *, address: Address, request: str) -> None:
        self.refused.append(f"{error.reason} {address} {len(request)}")

    async def slow(self, peer: PeerIdentity, kind: EventKind, *, address: Address, request: str) -> None:
        assert kind is EventKind.TOKEN
        if self.asks_too_often:
            raise ThrottledError("this identity asks too often", retry_after=1.5, is_news=False)

    def weigh(self, peer: PeerIdentity, *, size: int) -> None:
        raise AssertionError("a form is short")

    def app(self) -> web.Application:
        issue = IssueToken(
            policy=CurrentPolicy(compile_policy(POLICY)),
            signer=KEY,
            trail=self.trail,
            metrics=self.metrics,
            clock=self.clock,
            lifetime_seconds=300,
            issuer=ISSUER,
            audience=ISSUER,
        )
        edge = Edge(clock=self.clock, metrics=self.metrics, allowed_hosts=None)
        app = web.Application(middlewares=[edge.middleware()])
        app.router.add_routes(
            oauth_routes(
                issue=issue,
                door=AgentDoor(peers=self.peers, clock=self.clock, admission=self),
                jwks=public_jwks({KEY.kid: KEY}),
                issuer=ISSUER,
                body_seconds=0.2,
            )
        )
        app.on_response_prepare.append(finish)
        return app

    async def ask(self, data: Any, headers: Any = None) -> tuple[int, dict[str, Any], Any]:
        response = await self.client.post(TOKEN_PATH, data=data, headers=headers or FORM)
        return response.status, json.loads(await response.read()), response.headers

    def counted(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value("broker_tokens_total", {"outcome": outcome})


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    server = TestServer(made.app())
    await server.start_server(access_log=None, auto_decompress=False)
    made.client = TestClient(server)
    yield made
    await made.client.close()


async def test_a_token_comes_in_the_shape_of_rfc_6749_and_is_not_kept(bench: Bench) -> None:
    status, answer, headers = await bench.ask(urlencode(GOOD))
    assert status == 200
    assert {name: answer[name] for name in answer if name != "access_token"} == {
        "token_type": "Bearer",
        "expires_in": 300,
        "scope": "env:A",
    }
    assert (headers["Cache-Control"], headers["Pragma"]) == ("no-store", "no-cache")
    assert headers["Content-Type"].split(";")[0] == "application/json"
    assert not {"ETag", "Last-Modified"} & set(headers)
    assert bench.counted("issued") == 1


async def test_an_identity_that_asks_too_often_gets_no_token_and_the_time_to_wait(bench: Bench) -> None:
    bench.asks_too_often = True
    status, answer, headers = await bench.ask(urlencode(GOOD))
    assert (status, answer["code"]) == (429, "rate_limited")
    assert int(headers["Retry-After"]) >= 2
    assert bench.trail.events == []


async def test_the_form_is_decoded_once_and_the_scope_once_more(bench: Bench) -> None:
    status, answer, _ = await bench.ask(urlencode({**GOOD, "scope": "vault:secret/a%20b#*"}))
    assert (status, answer["scope"]) == (200, "vault:secret/a%20b#*")
    # Decoded twice this would be the same pattern.
    status, answer, _ = await bench.ask(urlencode({**GOOD, "scope": "vault:secret/a%2520b#*"}))
    assert (status, answer["error"]) == (400, "invalid_scope")


async def test_an_unknown_parameter_is_ignored(bench: Bench) -> None:
    assert (await bench.ask(urlencode({**GOOD, "resource": "https://x", "foo": ""})))[0] == 200


@pytest.mark.parametrize("name", sorted(GOOD))
async def test_a_parameter_without_a_value_counts_as_absent(bench: Bench, name: str) -> None:
    absent = await bench.ask(urlencode({key: value for key, value in GOOD.items() if key != name}))
    empty = await bench.ask(urlencode({**GOOD, name: ""}))
    assert absent[:2] == empty[:2]
    assert absent[0] == 400


@pytest.mark.parametrize("name", [*sorted(GOOD), "unknown"])
async def test_a_repeated_parameter_is_refused(bench: Bench, name: str) -> None:
    pairs = [*GOOD.items(), (name, GOOD.get(name, "x")), (name, GOOD.get(name, "x"))]
    status, answer, _ = await bench.ask(urlencode(pairs))
    assert (status, answer["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("name", sorted(GOOD))
async def test_a_parameter_that_is_repeated_without_a_value_is_refused_too(bench: Bench, name: str) -> None:
    status, answer, _ = await bench.ask(f"{name}=&{urlencode(GOOD)}")
    assert (status, answer["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("escape", ["%00", "%0A", "%7F", "%C2%85", "%E2%80%AE", "%FF", "%C0%AF", "%ED%A0%80"])
async def test_a_parameter_that_is_no_visible_utf_8_is_refused(bench: Bench, escape: str) -> None:
    status, answer, _ = await bench.ask(f"{urlencode(GOOD)}&x={escape}")
    assert (status, answer["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity"])
async def test_an_encoded_body_gets_415(bench: Bench, coding: str) -> None:
    status, answer, _ = await bench.ask(urlencode(GOOD), {**FORM, "Content-Encoding": coding})
    assert (status, answer["error"]) == (415, "invalid_request")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (urlencode({**GOOD, "grant_type": "authorization_code"}), 400, "unsupported_grant_type"),
        (urlencode({**GOOD, "client_id": ""}), 400, "invalid_request"),
        (urlencode({**GOOD, "client_id": "spiffe://prod.example/other"}), 401, "invalid_client"),
        (urlencode({**GOOD, "scope": "env:B"}), 400, "invalid_scope"),
        (urlencode({**GOOD, "scope": '"\\\u00e9'}), 400, "invalid_scope"),
    ],
)
async def test_every_refusal_is_counted_by_its_code_and_echoes_nothing(
    bench: Bench, body: str, status: int, error: str
) -> None:
    answered, answer, headers = await bench.ask(body)
    assert (answered, answer["error"], set(answer)) == (status, error, {"error", "error_description"})
    assert bench.counted(error) == 1
    assert set(answer["error_description"]) <= SAFE
    assert (headers["Cache-Control"], headers["Pragma"]) == ("no-store", "no-cache")
    assert ("WWW-Authenticate" in headers) == (status == 401)


async def test_an_identity_that_policy_does_not_know_is_unauthorized_client(bench: Bench) -> None:
    bench.peers.peer = fake_peer("spiffe://prod.example/stranger")
    status, answer, _ = await bench.ask(urlencode({**GOOD, "client_id": bench.peers.peer.name}))
    assert (status, answer["error"]) == (400, "unauthorized_client")
    assert [event.reason for event in bench.trail.events] == ["unauthorized_client"]


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded; charset=utf-16",
        "application/x-www-form-urlencoded; charset=latin-1",
        "application/x-www-form-urlencoded, text/plain",
        "multipart/form-data; boundary=x",
        "application/json",
    ],
)
async def test_another_media_type_or_charset_is_refused(bench: Bench, kind: str) -> None:
    status, answer, _ = await bench.ask(urlencode(GOOD), {"Content-Type": kind})
    assert (status, answer["error"]) == (415, "invalid_request")


async def test_a_form_may_say_that_it_is_utf_8(bench: Bench) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"}
    assert (await bench.ask(urlencode(GOOD), kind))[0] == 200


async def test_two_content_types_are_refused(bench: Bench) -> None:
    # By the parser of aiohttp, before there is a request.
    response = await bench.client.post(TOKEN_PATH, data=urlencode(GOOD), headers=[*FORM.items(), *FORM.items()])
    assert response.status == 400
    assert bench.trail.events == []


async def test_an_authorization_header_beside_the_certificate_is_invalid_client(bench: Bench) -> None:
    status, answer, headers = await bench.ask(urlencode(GOOD), {**FORM, "Authorization": "Basic eDp5"})
    assert (status, answer["error"]) == (401, "invalid_client")
    assert headers["WWW-Authenticate"]


async def test_two_authorization_headers_are_an_invalid_request(bench: Bench) -> None:
    lines = [*FORM.items(), ("Authorization", "Basic eDp5"), ("Authorization", "Bearer x")]
    status, answer, _ = await bench.ask(urlencode(GOOD), lines)
    assert (status, answer["error"]) == (400, "invalid_request")


async def test_a_parameter_in_the_query_is_refused_and_nothing_is_issued(bench: Bench) -> None:
    response = await bench.client.post(f"{TOKEN_PATH}?scope=env:A", data=urlencode(GOOD), headers=FORM)
    assert response.status == 400
    assert response.headers["Cache-Control"] == "no-store"
    assert bench.trail.events == []


def padded(size: int) -> str:
    form = urlencode({**GOOD, "padding": ""})
    return form + "x" * (size - len(form))


async def test_a_body_of_exactly_16_kib_is_read(bench: Bench) -> None:
    assert (await bench.ask(padded(16 * 1024)))[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_16_kib_gets_413_declared_or_not(bench: Bench, chunked: bool) -> None:
    body = padded(16 * 1024 + 1).encode()

    async def chunks() -> Any:
        yield body

    assert (await bench.ask(chunks() if chunked else body))[0] == 413


async def test_a_slow_body_gets_408_and_the_connection_closes(bench: Bench) -> None:
    reader, writer = await asyncio.open_connection(bench.client.server.host, bench.client.server.port)
    head = [f"POST {TOKEN_PATH} HTTP/1.1", "Host: x", f"Content-Type: {FORM['Content-Type']}", "Content-Length: 99"]
    writer.write("\r\n".join([*head, "", "grant_type="]).encode())
    try:
        answer = await asyncio.wait_for(reader.read(65536), 5)
    finally:
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()


async def test_a_body_that_ends_early_issues_nothing(bench: Bench) -> None:
    _, writer = await asyncio.open_connection(bench.client.server.host, bench.client.server.port)
    body = urlencode(GOOD)
    head = [f"POST {TOKEN_PATH} HTTP/1.1", "Host: x", f"Content-Type: {FORM['Content-Type']}", "Content-Length: 999"]
    writer.write("\r\n".join([*head, "", body]).encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    # A whole request after it has been answered, so the cut one has been seen too.
    assert (await bench.ask(urlencode(GOOD)))[0] == 200
    assert len(bench.trail.events) == 1


async def test_a_refused_identity_is_put_on_record_and_no_matter_of_oauth(bench: Bench) -> None:
    bench.peers.refusal = IdentityRefusedError("two names", reason=IdentityRefusedReason.TWO_URI_SANS)
    status, answer, headers = await bench.ask(urlencode(GOOD))
    assert status in {401, 403}
    assert (answer["code"], headers["Content-Type"].split(";")[0]) == ("identity_refused", "application/problem+json")
    assert bench.refused == ["two_uri_sans 127.0.0.1 32"]


@pytest.mark.parametrize("scope", ["env:A", "env:B"])
async def test_without_the_trail_there_is_503_and_no_token(bench: Bench, scope: str) -> None:
    bench.trail.full = True
    status, answer, headers = await bench.ask(urlencode({**GOOD, "scope": scope}))
    assert (status, answer["code"]) == (503, "audit_unavailable")
    assert "access_token" not in answer
    assert headers["Cache-Control"] == "no-store"


async def test_the_event_is_durable_before_the_answer_begins(bench: Bench) -> None:
    counted: list[float | None] = []
    bench.trail.on_append = lambda: counted.append(bench.counted("issued"))
    assert (await bench.ask(urlencode(GOOD)))[0] == 200
    assert counted == [None]
    assert len(bench.trail.events) == 1


async def test_the_peer_is_asked_for_at_the_time_of_the_request(bench: Bench) -> None:
    asked: list[float] = []

    def peer_of(request: web.Request, *, now: float) -> PeerIdentity:
        asked.append(now)
        return fake_peer()

    bench.peers.peer_of = peer_of  # type: ignore[method-assign]  # A spy.
    for _ in range(2):
        await bench.ask(urlencode(GOOD))
        bench.clock.advance(60)
    assert asked[1] - asked[0] == 60


async def test_the_keys_are_public_and_may_be_kept_for_five_minutes(bench: Bench) -> None:
    response = await bench.client.get("/.well-known/jwks.json")
    assert response.headers["Content-Type"] == "application/jwk-set+json"
    assert response.headers["Cache-Control"] == "max-age=300"
    [key] = json.loads(await response.read())["keys"]
    assert (key["kid"], key["use"], key["alg"]) == (KEY.kid, "sig", "ES256")
    assert "d" not in key


def _urls(document: dict[str, object]) -> Iterable[str]:
    return (str(value) for name, value in document.items() if name.endswith(("_endpoint", "_uri")))


async def test_the_metadata_names_what_is_there_and_nothing_else(bench: Bench) -> None:
    response = await bench.client.get("/.well-known/oauth-authorization-server")
    document = await response.json()
    assert document == metadata(ISSUER)
    routes = {resource.canonical for resource in bench.app().router.resources()}
    assert {url.removeprefix(ISSUER) for url in _urls(document)} <= routes
    assert document["token_endpoint_auth_methods_supported"] == ["tls_client_auth"]
    assert document["tls_client_certificate_bound_access_tokens"] is True
    assert document["grant_types_supported"] == ["client_credentials"]
    assert document["response_types_supported"] == ["none"]
