"""`openapi.yaml` is the contract: routes, codes, limits and examples stand there as the code has them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from aiohttp import web
from openapi_spec_validator import validate

import broker.errors
from broker.cache.remembered import LeaseFacts
from broker.config import LimitSettings
from broker.errors import BrokerError, MissingPart, SecretMissingError
from broker.leases.record import LeaseReason, LeaseState
from broker.readiness import Readiness
from broker.resolution.results import Granted, Refused, Resolution, Status
from broker.secret import Encoding, SecretValue
from broker.strict_json import MAX_DEPTH
from broker.web.applications import build_agent_app, build_operations_app
from broker.web.body import BodyLimits
from broker.web.problems import PROBLEMS, TYPE_PREFIX, WORST_FIRST, WebCode, problem, problem_of, resolution_problem
from broker.web.routes.cache_orders import cache_order_routes, webhook_route
from broker.web.routes.lease_orders import lease_order_routes
from broker.web.routes.leases import lease_document, lease_routes
from broker.web.routes.oauth import oauth_routes
from broker.web.routes.operations import operations_routes
from broker.web.routes.resolve import resolve_route
from broker.web.routes.watch import WatchHandler, watch_routes
from broker.web.schemas import ResolveRequest, resolution_body
from tests.fakes import START, FakeClock, fake_lease, fake_metrics

# These never reach a problem document: they stop a file from being loaded, or have OAuth's own shape.
NOT_OVER_HTTP = {"source_mints", "document_invalid", "policy_invalid", "settings_invalid", "invalid_scope"} | {
    "invalid_client",
    "unauthorized_client",
}
# These answer other routes than `POST /v1/resolve`.
ELSEWHERE = {"method_unknown", "order_rate", "not_administrator", "pattern_malformed", "webhook_refused"}
Document = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Document:
    return yaml.safe_load((Path(__file__).parents[2] / "openapi.yaml").read_text("utf-8"))


def check(document: Document, name: str, instance: object) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(instance)


def operations_of(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "servers":
                yield method.upper(), path, operation


def routes_of(app: web.Application) -> set[tuple[str, str]]:
    return {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}


def routes_of_oauth() -> list[web.RouteDef]:
    return oauth_routes(
        issue=None,  # Never called: only the route table is looked at.
        door=None,
        jwks={"keys": []},
        issuer="https://broker.example",
    )


def media_types(node: object) -> Iterator[Document]:
    """Yield every media type object with examples, wherever it stands."""
    if isinstance(node, Mapping):
        if "schema" in node and "examples" in node:
            yield dict(node)
        for child in node.values():
            yield from media_types(child)
    elif isinstance(node, list):
        for child in node:
            yield from media_types(child)


def test_it_is_valid_openapi_3_1(document: Document) -> None:
    assert document["openapi"].startswith("3.1.")
    validate(document)


def test_its_routes_are_the_routes_of_both_listeners(document: Document) -> None:
    clock, metrics = FakeClock(), fake_metrics()
    agents = build_agent_app(
        # Nothing of it is called: only the route table is looked at.
        routes=[
            resolve_route(resolve=None, door=None, clock=clock, limits=BodyLimits()),
            *routes_of_oauth(),
            *lease_routes(leases=None, door=None),
            *cache_order_routes(orders=None, door=None),
            *lease_order_routes(orders=None, door=None),
            *watch_routes(WatchHandler(watch=None, feed=None, door=None)),
        ],
        clock=clock,
        metrics=metrics,
        max_body_bytes=BodyLimits().max_bytes,
        allowed_hosts=None,
    )
    operations = build_operations_app(
        routes=[
            *operations_routes(readiness=Readiness(clock=clock, metrics=metrics), registry=metrics.registry),
            webhook_route(orders=None, verifier=None, clock=clock),
        ]
    )
    stated = {(method, path) for method, path, _ in operations_of(document)}
    assert stated == routes_of(agents) | routes_of(operations)


def test_every_code_of_the_table_stands_under_its_status(document: Document) -> None:
    stated = {}
    for response in document["components"]["responses"].values():
        schema = response["content"].get("application/problem+json", {}).get("schema", {})
        for part in schema.get("allOf", []):
            if "properties" in part:
                properties = part["properties"]
                stated.update(dict.fromkeys(properties["code"]["enum"], properties["status"]["const"]))
    assert stated == {code: known.status for code, known in PROBLEMS.items()}


def test_every_error_class_that_can_leave_has_a_line_in_the_table() -> None:
    classes = [
        kind
        for kind in vars(broker.errors).values()
        if isinstance(kind, type) and issubclass(kind, BrokerError) and "code" in vars(kind)
    ]
    assert {kind.code for kind in classes} - NOT_OVER_HTTP | {str(code) for code in WebCode} | {
        "reference_denied",
        "secret_too_old",
    } == set(PROBLEMS)
    assert NOT_OVER_HTTP & set(PROBLEMS) == set()


def test_a_problem_that_answers_resolve_is_listed_there(document: Document) -> None:
    stated = {int(status) for status in document["paths"]["/v1/resolve"]["post"]["responses"]}
    assert stated == {known.status for code, known in PROBLEMS.items() if code not in ELSEWHERE} | {200}


def test_the_order_of_failures_is_the_codes(document: Document) -> None:
    text = document["paths"]["/v1/resolve"]["post"]["description"]
    places = [text.index(f"`{code}` ({PROBLEMS[code].status})") for code in WORST_FIRST]
    assert places == sorted(places)
    assert document["components"]["schemas"]["Refused"]["properties"]["code"]["enum"] == list(WORST_FIRST)


def test_the_limits_are_the_codes(document: Document) -> None:
    limits, schemas = LimitSettings(), document["components"]["schemas"]
    assert schemas["ResolveRequest"]["properties"]["references"]["maxItems"] == limits.max_references
    assert f"{limits.max_body_bytes:,} bytes" in document["info"]["description"]
    assert f"{limits.body_seconds:g} seconds" in document["info"]["description"]
    assert f"{MAX_DEPTH} levels" in document["info"]["description"]


def test_the_request_schema_is_the_models(document: Document) -> None:
    stated, model = document["components"]["schemas"]["ResolveRequest"], ResolveRequest.model_json_schema()
    assert set(stated["properties"]) == set(model["properties"])
    assert stated["required"] == model["required"]
    assert stated["additionalProperties"] is model["additionalProperties"] is False
    assert stated["properties"]["require"]["enum"] == model["properties"]["require"]["enum"]


def test_the_statuses_are_the_codes(document: Document) -> None:
    schemas = document["components"]["schemas"]
    stated = [schemas[name]["properties"]["status"]["enum"] for name in ("Granted", "Refused")]
    assert {status for part in stated for status in part} == {str(status) for status in Status}
    assert schemas["Granted"]["properties"]["encoding"]["enum"] == [str(encoding) for encoding in Encoding]


def test_every_example_fits_its_schema(document: Document) -> None:
    found = list(media_types(document))
    assert len(found) > 10
    for media in found:
        schema = {**media["schema"], "components": document["components"]}
        for example in media["examples"].values():
            jsonschema.Draft202012Validator(schema).validate(example["value"])


@pytest.mark.parametrize(
    "value",
    [
        SecretValue(b"text", encoding=Encoding.TEXT),
        SecretValue(b"\xff", encoding=Encoding.BASE64),
        SecretValue(b'{"a":[1.50]}', encoding=Encoding.JSON),
    ],
    ids=lambda value: value.encoding,
)
def test_a_written_answer_fits_the_schema(document: Document, value: SecretValue) -> None:
    granted = Granted(
        reference="env:A",
        status=Status.OK,
        value=value,
        version=None,
        fetched_at=START,
        fresh_until=START + 1,
        stale_until=START + 2,
    )
    resolution = Resolution(complete=True, results=(granted, refused()), worst=Status.INVALID)
    check(document, "ResolveAnswer", json.loads(resolution_body(resolution)))


def test_a_written_lease_fits_the_schema(document: Document) -> None:
    for state in LeaseState:
        for reason in LeaseReason:
            record = fake_lease(state=state, reason=reason, due=START)
            if state is not LeaseState.MINTING:
                check(document, "Lease", lease_document(record))
    assert "handle-4711" not in json.dumps(lease_document(record))
    stated = document["components"]["schemas"]["Lease"]["properties"]
    assert stated["reason"]["enum"] == [reason.value for reason in LeaseReason]
    granted = Granted(
        reference="vault:database/creds/app#username",
        status=Status.OK,
        value=SecretValue(b"text", encoding=Encoding.TEXT),
        version=None,
        fetched_at=START,
        fresh_until=START + 1,
        stale_until=START + 2,
        lease=LeaseFacts("lease_a", START + 2, renewable=True),
    )
    body = json.loads(resolution_body(Resolution(complete=True, results=(granted,), worst=None)))
    check(document, "ResolveAnswer", body)
    assert body["results"][0]["lease"] == {
        "id": "lease_a",
        "expires_at": "2027-01-15T08:00:02.000Z",
        "renewable": True,
    }


def refused() -> Refused:
    return Refused(
        reference="a word", status=Status.INVALID, code="reference_malformed", detail="d", position=0, retry_after=0.2
    )


def test_written_problems_fit_the_schema(document: Document) -> None:
    resolution = Resolution(complete=False, results=(refused(),), worst=Status.INVALID)
    missing = SecretMissingError("gone", part=MissingPart.PATH)
    answers = [
        *(problem(code, "d", instance="0") for code in PROBLEMS),
        resolution_problem(resolution, instance="0"),
        problem_of(missing, instance="0"),
    ]
    for answer in answers:
        body = json.loads(answer.body)
        check(document, "Problem", body)
        assert (body["status"], body["type"]) == (answer.status, TYPE_PREFIX + body["code"])
