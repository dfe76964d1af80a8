"""A whole broker that starts while its store is away: with nothing old by default, or with what is sealed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.sandbox import Sandbox, sandbox
from broker.key_file import write_private
from tests.running import RunningBroker, serving
from tests.waiting import wait_until

API_KEY = "vault:secret/logflux#api_key"
CANARY = "Kanarie-4711-sealed"
# A broker without its store is not ready.
LIVE = "/livez"


@pytest.fixture
def place() -> Iterator[Sandbox]:
    with sandbox(fresh_for="5m") as it:
        data = {"data": {"api_key": CANARY}}
        it.ask_store("POST", "secret/data/logflux", data)
        yield it


def environment(place: Sandbox) -> dict[str, str]:
    key = place.directory / "seal.key"
    if not key.exists():
        write_private(key, os.urandom(32))
    return {"LOGFLUX_CACHE__SEALED_KEY_FILE": str(key)}


def status(broker: RunningBroker) -> str:
    result = broker.resolve(API_KEY, require="any").json["results"][0]
    assert "value" not in result or result["value"] == CANARY
    return str(result["status"])


def state_of(place: Sandbox) -> Path:
    return place.directory / "state"


def test_a_start_without_the_store_serves_nothing_old(place: Sandbox) -> None:
    with serving(place) as broker:
        assert status(broker) == "ok"
    place.store.kill()
    with serving(place, path=LIVE) as broker:
        assert status(broker) == "unavailable"
    assert not (state_of(place) / "sealed.cache").exists()


def test_what_is_sealed_serves_as_stale_after_a_restart(place: Sandbox) -> None:
    with serving(place, environment=environment(place)) as broker:
        assert status(broker) == "ok"
    sealed = state_of(place) / "sealed.cache"
    assert CANARY.encode() not in sealed.read_bytes()
    place.store.kill()
    with serving(place, environment=environment(place), path=LIVE) as broker:
        assert status(broker) == "stale"
        assert CANARY not in broker.log
    # It is sealed again with the times that it had, and outlives a second restart as well.
    with serving(place, environment=environment(place), path=LIVE) as broker:
        assert status(broker) == "stale"


def test_what_was_sealed_before_a_crash_serves_too_and_not_once_the_store_says_no(place: Sandbox) -> None:
    with serving(place, environment=environment(place)) as broker:
        assert status(broker) == "ok"
        wait_until((state_of(place) / "sealed.cache").exists)
        wait_until(lambda: API_KEY.partition(":")[2].partition("#")[0].encode() in sealed_bytes(place))
        broker.child.kill()
    place.ask_store("DELETE", "secret/metadata/logflux")
    with serving(place, environment=environment(place)) as broker:
        wait_until(lambda: status(broker) == "missing")


def sealed_bytes(place: Sandbox) -> bytes:
    return (state_of(place) / "sealed.cache").read_bytes()


def test_a_changed_file_is_refused_in_the_log_and_the_broker_runs(place: Sandbox) -> None:
    with serving(place, environment=environment(place)) as broker:
        assert status(broker) == "ok"
    sealed = state_of(place) / "sealed.cache"
    changed = bytearray(sealed.read_bytes())
    changed[len(changed) // 2] ^= 1
    sealed.write_bytes(changed)
    place.store.kill()
    with serving(place, environment=environment(place), path=LIVE) as broker:
        assert status(broker) == "unavailable"
        assert "sealed_cache_refused" in broker.log
