"""A whole broker tells a watching agent, over mTLS, that a real store holds another version."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.running import RunningBroker, running

API_KEY = "vault:secret/logflux#api_key"
CANARY = "canary-of-the-watch-4711"


@pytest.fixture
def broker() -> Iterator[RunningBroker]:
    with running(environment={"LOGFLUX_WATCH__INTERVAL_SECONDS": "0.2"}) as it:
        yield it


@contextmanager
def watching(broker: RunningBroker, **members: Any) -> Iterator[http.client.HTTPResponse]:
    connection = broker.connection(seconds=30.0)
    body = json.dumps({"references": [API_KEY], **members})
    connection.request("POST", "/v1/watch", body, {"Content-Type": "application/json"})
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def events(response: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    name = ""
    while line := response.readline().decode():
        assert CANARY not in line
        member, _, value = line.rstrip("\n").partition(": ")
        if member == "event":
            name = value
        elif member == "data":
            yield name, json.loads(value)


def test_a_write_at_the_store_is_told_with_its_version_and_the_next_read_gives_the_new_value(
    broker: RunningBroker,
) -> None:
    version = broker.resolve(API_KEY).json["results"][0]["version"]
    with watching(broker, versions={API_KEY: version}) as response:
        told = events(response)
        assert next(told)[0] == "watching"
        broker.write_api_key(CANARY)
        assert next(told) == (
            "change",
            {"reference": API_KEY, "version": str(int(version) + 1), "status": "changed"},
        )
        assert broker.resolve(API_KEY).json["results"][0]["value"] == CANARY
        assert broker.terminate() == 0
        assert next(told) == ("end", {"reason": "shutdown"})
    assert CANARY not in broker.log


def test_who_may_not_have_it_may_not_watch_it(broker: RunningBroker) -> None:
    with watching(broker, references=["vault:secret/foreign#key"]) as response:
        assert response.status == 403
        assert json.loads(response.read())["code"] == "reference_denied"
