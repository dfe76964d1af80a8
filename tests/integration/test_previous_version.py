"""The version before the current one, from a real store: by name, and beside the current one while an overlap lasts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.running import RunningBroker, running

API_KEY = "vault:secret/logflux#api_key"
PREVIOUS = "vault:secret/logflux?version=previous#api_key"


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running() as it:
        yield it


def invalidate(broker: RunningBroker) -> None:
    assert broker.post("/v1/cache/invalidate", '{"everything": true}', agent="operator").status == 200


@pytest.fixture(autouse=True)
def _one_version(broker: RunningBroker) -> None:
    """Let the secret begin anew, whatever another test has left."""
    broker.place.ask_store("DELETE", "secret/metadata/logflux")
    broker.place.ask_store("POST", "secret/data/logflux", {"data": {"api_key": "first"}})
    invalidate(broker)


def ask(broker: RunningBroker, reference: str = API_KEY) -> Any:
    body = json.dumps({"references": [reference], "previous": True})
    return broker.post("/v1/resolve", body).json["results"][0]


def test_the_version_before_counts_while_the_overlap_lasts(broker: RunningBroker) -> None:
    missing = ask(broker, PREVIOUS)
    assert (missing["code"], missing["detail"]) == ("secret_missing", "the secret has one version, and none before it")
    broker.place.ask_store("POST", "secret/data/logflux", {"data": {"api_key": "second"}})
    broker.place.ask_store("POST", "secret/metadata/logflux", {"custom_metadata": {"overlap": "1h"}})
    broker.place.ask_store("POST", "secret/data/logflux", {"data": {"api_key": "third"}})
    invalidate(broker)
    result = ask(broker)
    assert (result["value"], result["version"]) == ("third", "3")
    assert (result["previous"]["value"], result["previous"]["version"]) == ("second", "2")
    assert ask(broker, PREVIOUS)["value"] == "second"
    assert "previous" not in broker.resolve(API_KEY).json["results"][0]
    # Rotated again: what is remembered of the version before is not the one before any more.
    broker.place.ask_store("POST", "secret/data/logflux", {"data": {"api_key": "fourth"}})
    broker.post("/v1/cache/invalidate", json.dumps({"references": [API_KEY]}), agent="operator")
    assert ask(broker)["previous"]["value"] == "third"


def test_a_deleted_version_before_does_not_count(broker: RunningBroker) -> None:
    broker.place.ask_store("POST", "secret/metadata/logflux", {"custom_metadata": {"overlap": "1h"}})
    broker.place.ask_store("POST", "secret/data/logflux", {"data": {"api_key": "second"}})
    invalidate(broker)
    assert ask(broker)["previous"]["value"] == "first"
    broker.place.ask_store("POST", "secret/delete/logflux", {"versions": [1]})
    invalidate(broker)
    result = ask(broker)
    assert result["status"] == "ok"
    assert "previous" not in result
    assert ask(broker, PREVIOUS)["code"] == "secret_missing"


def test_an_engine_without_versions_says_so(broker: RunningBroker) -> None:
    refused = ask(broker, "env:LOGFLUX_PAT?version=previous")
    assert (refused["code"], refused["status"]) == ("reference_malformed", "invalid")


def test_broker_get_prints_the_version_before(broker: RunningBroker) -> None:
    broker.place.ask_store("POST", "secret/data/logflux", {"data": {"api_key": "one before"}})
    broker.place.ask_store("POST", "secret/data/logflux", {"data": {"api_key": "current"}})
    invalidate(broker)
    certificate, key = broker.place.certificate("shipper")
    who = ["--url", broker.place.url, "--ca", broker.place.authority, "--cert", certificate, "--key", key]
    command = [sys.executable, "-m", "broker", "get", *map(str, who), "--previous", API_KEY]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"one before")
