"""schemathesis reads `openapi.yaml` and tries everything that it says, and more, on the live mTLS listener."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.running import RunningBroker, running

CONTRACT = Path(__file__).parents[2] / "openapi.yaml"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
AGENT_PATHS = ("/v1/resolve", "/v1/cache/(invalidate|refresh)", "/v1/leases.*", "/oauth2/token", "/.well-known/.*")

schema = schemathesis.openapi.from_path(CONTRACT)


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running() as it:
        yield it


@schema.include(path_regex="|".join(AGENT_PATHS)).parametrize()
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_listener_keeps_its_contract(case: schemathesis.Case, broker: RunningBroker) -> None:
    place = broker.place
    certificate = tuple(str(path) for path in place.certificate("shipper"))
    case.call_and_validate(base_url=place.url, checks=CHECKS, cert=certificate, verify=str(place.authority))
