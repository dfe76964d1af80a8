"""The broker's wall clock one hour off, forth and back: nobody gets more than before, and nothing is lost."""

import itertools
import json
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.cli.sandbox import SHIPPER, sandbox
from tests.running import RunningBroker, audit, serving

API_KEY = "vault:secret/logflux#api_key"
HOUR = 3600
Shift = Callable[[int], None]


@pytest.fixture(scope="module")
def shifted() -> Iterator[tuple[RunningBroker, Shift]]:
    with sandbox(fresh_for="5m") as place:
        file = place.directory / "shift"

        def shift(seconds: int) -> None:
            new = Path(f"{file}.new")
            new.write_text(str(seconds))
            new.replace(file)

        with serving(place, environment={"WALL_SHIFT": str(file)}, module="tests.shifting") as broker:
            yield broker, shift


@pytest.fixture(autouse=True)
def right_again(shifted: tuple[RunningBroker, Shift]) -> Iterator[None]:
    yield
    shifted[1](0)


def token_of(broker: RunningBroker) -> str:
    form = {"grant_type": "client_credentials", "client_id": SHIPPER, "scope": API_KEY}
    answer = broker.post(
        "/oauth2/token",
        urllib.parse.urlencode(form),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status == 200, answer.body
    return str(answer.json["access_token"])


def reads(broker: RunningBroker) -> list[str]:
    lines = broker.operations("/metrics").body.decode().splitlines()
    return [line for line in lines if line.startswith('broker_upstream_requests_total{operation="read"')]


@pytest.mark.parametrize("direction", [1, -1])
def test_a_value_is_as_fresh_as_it_was_since_the_cache_has_a_steady_clock(
    shifted: tuple[RunningBroker, Shift], direction: int
) -> None:
    broker, shift = shifted
    # The certificate of the sandbox began a moment ago, so that back is only as far as it is valid.
    seconds = HOUR if direction > 0 else -60
    first = broker.resolve(API_KEY).json["results"][0]
    before = reads(broker)
    shift(seconds)
    second = broker.resolve(API_KEY).json["results"][0]
    assert (second["status"], second["value"]) == ("ok", first["value"])
    assert reads(broker) == before


def test_a_clock_that_is_behind_every_certificate_admits_nobody_and_says_why(
    shifted: tuple[RunningBroker, Shift],
) -> None:
    broker, shift = shifted
    shift(-HOUR)
    answer = broker.resolve(API_KEY)
    assert answer.json["code"] == "identity_refused"
    assert "compare the clocks" in answer.json["detail"]
    assert b'"value"' not in answer.body
    last = json.loads(audit(broker, "search", "--type", "auth", "--json").stdout.splitlines()[-1])
    assert (last["outcome"], last["reason"]) == ("failure", "outside_validity")
    shift(0)
    assert broker.resolve(API_KEY).status == 200


def test_a_token_ends_with_the_wall_clock_and_a_new_one_is_good(shifted: tuple[RunningBroker, Shift]) -> None:
    broker, shift = shifted
    old = token_of(broker)
    assert broker.resolve(API_KEY, token=old).status == 200
    shift(HOUR)
    refused = broker.resolve(API_KEY, token=old)
    assert (refused.status, refused.json["code"]) == (401, "invalid_token")
    assert broker.resolve(API_KEY, token=token_of(broker)).status == 200


def test_a_token_from_a_clock_that_was_ahead_is_refused_until_then(shifted: tuple[RunningBroker, Shift]) -> None:
    broker, shift = shifted
    shift(HOUR)
    early = token_of(broker)
    shift(0)
    refused = broker.resolve(API_KEY, token=early)
    assert (refused.status, refused.json["code"]) == (401, "invalid_token")
    assert b'"value"' not in refused.body
    shift(HOUR)
    assert broker.resolve(API_KEY, token=early).status == 200


def test_the_trail_keeps_its_order_and_verifies_whatever_the_times_say(shifted: tuple[RunningBroker, Shift]) -> None:
    broker, shift = shifted
    for seconds in (HOUR, 0, HOUR, 0):
        shift(seconds)
        assert broker.resolve("env:LOGFLUX_PAT").status == 200
    records = [json.loads(line) for line in audit(broker, "search", "--json").stdout.splitlines()]
    assert [record["seq"] for record in records] == sorted(record["seq"] for record in records)
    assert any(later["time"] < earlier["time"] for earlier, later in itertools.pairwise(records))
    verified = audit(broker, "verify")
    assert verified.returncode == 0, verified.stdout
