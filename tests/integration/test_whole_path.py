"""The main job end to end: a real store, real mTLS, a broker in a process of its own."""

import json
import signal
import sqlite3
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from broker.cli.sandbox import SHIPPER
from tests.running import RunningBroker, running, verb
from tests.waiting import wait_until

API_KEY = "vault:secret/logflux#api_key"


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running() as it:
        yield it


def token_for(broker: RunningBroker, scope: str) -> str:
    body = f"grant_type=client_credentials&client_id={SHIPPER}&scope={scope.replace('#', '%23')}"
    answer = broker.post("/oauth2/token", body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status == 200, answer.body
    return str(answer.json["access_token"])


def test_the_three_kinds_of_reference_are_resolved_in_the_order_asked(broker: RunningBroker) -> None:
    file = f"{broker.place.files}/tls_passphrase"
    asked = ["${LOGFLUX_PAT}", API_KEY, file, "vault:secret/logflux#endpoint", f"file:{file}", "$LOGFLUX_PAT"]
    answer = broker.resolve(*asked)
    assert answer.status == 200, answer.body
    assert [result["reference"] for result in answer.json["results"]] == asked
    assert {result["status"] for result in answer.json["results"]} == {"ok"}
    values = [result["value"] for result in answer.json["results"]]
    stored = broker.place.ask_store("GET", "secret/data/logflux")
    assert values[1] == stored["data"]["data"]["api_key"]
    assert values[0] == values[5]
    assert values[2] == values[4] == (broker.place.files / "tls_passphrase").read_text().removesuffix("\n")
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_whole_secret_is_an_object(broker: RunningBroker) -> None:
    answer = broker.resolve("vault:secret/logflux")
    # The policy gives `#*`, which is every field and not the whole.
    assert answer.status == 403


def test_a_stranger_learns_nothing(broker: RunningBroker) -> None:
    there = broker.resolve(API_KEY, agent="stranger")
    absent = broker.resolve("vault:secret/nothing#here", agent="stranger")
    assert there.status == absent.status == 403
    assert there.json["results"][0]["detail"] == absent.json["results"][0]["detail"]


def test_one_failure_keeps_every_value_back_unless_any_is_asked(broker: RunningBroker) -> None:
    every = broker.resolve(API_KEY, "vault:secret/logflux#nothing")
    assert every.status == 404
    assert all("value" not in result for result in every.json["results"])
    some = broker.resolve(API_KEY, "vault:secret/logflux#nothing", require="any")
    assert some.status == 200
    assert [result["status"] for result in some.json["results"]] == ["ok", "missing"]


def test_a_token_narrows_and_is_bound_to_its_certificate(broker: RunningBroker) -> None:
    token = token_for(broker, "vault:secret/logflux#endpoint")
    assert broker.resolve("vault:secret/logflux#endpoint", token=token).status == 200
    assert broker.resolve(API_KEY, token=token).status == 403
    stolen = broker.resolve("vault:secret/logflux#endpoint", token=token, agent="stranger")
    assert (stolen.status, stolen.json["code"]) == (401, "invalid_token")
    assert "invalid_token" in stolen.headers["WWW-Authenticate"]


def test_a_client_without_a_certificate_is_refused_counted_and_recorded(broker: RunningBroker) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        broker.post("/v1/resolve", b"{}", agent=None)
    metrics = broker.operations("/metrics").body.decode()
    assert 'broker_handshakes_total{outcome="no_certificate"}' in metrics
    found = verb("audit", "search", "--database", str(broker.place.database), "--type", "handshake", "--json")
    assert "no_certificate" in found.stdout


def test_every_answered_value_has_its_record_and_the_trail_verifies(broker: RunningBroker) -> None:
    before = _records(broker)
    for _ in range(5):
        assert broker.resolve(API_KEY).status == 200
    assert _records(broker) == before + 5
    verified = verb("audit", "verify", "--database", str(broker.place.database))
    assert verified.returncode == 0, verified.stdout + verified.stderr


def _records(broker: RunningBroker) -> int:
    found = verb("audit", "search", "--database", str(broker.place.database), "--type", "resolve", "--json")
    assert found.returncode == 0, found.stderr
    return len(found.stdout.splitlines())


def test_many_agents_at_once_cost_the_store_one_read() -> None:
    with running() as broker:
        before = _reads(broker)
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: broker.resolve(API_KEY, "vault:secret/logflux#endpoint"), range(40)))
        assert {answer.status for answer in answers} == {200}
        assert _reads(broker) == before + 1


def _reads(broker: RunningBroker) -> float:
    for line in broker.operations("/metrics").body.decode().splitlines():
        if line.startswith('broker_upstream_requests_total{operation="read",outcome="ok",provider="vault"}'):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def test_a_policy_change_is_in_force_without_a_restart_and_a_bad_one_is_not() -> None:
    with running() as broker:
        policy = broker.place.directory / "policy.yaml"
        good = policy.read_text()
        policy.write_text("rules: [")
        wait_until(lambda: 'broker_policy_reloads_total{outcome="refused"} 1.0' in _metrics(broker))
        assert broker.resolve(API_KEY).status == 200
        policy.write_text(good.replace('"vault:secret/logflux#*", ', ""))
        broker.child.handle.send_signal(signal.SIGHUP)
        wait_until(lambda: broker.resolve(API_KEY).status == 403)
        found = verb("audit", "search", "--database", str(broker.place.database), "--type", "policy", "--json")
        assert [json.loads(line)["outcome"] for line in found.stdout.splitlines()] == ["failure", "success"]


def test_an_outage_is_served_stale_and_marked_then_readiness_says_so() -> None:
    with running(fresh_for="1s") as broker:
        first = broker.resolve(API_KEY).json["results"][0]
        broker.place.store.kill()
        time.sleep(1.2)
        second = broker.resolve(API_KEY).json["results"][0]
        assert (second["status"], second["value"]) == ("stale", first["value"])
        never_read = broker.resolve("vault:secret/logflux?version=1#endpoint")
        assert never_read.status == 503
        assert int(never_read.headers["Retry-After"]) >= 1
        wait_until(lambda: broker.operations("/readyz").status == 503)
        assert broker.operations("/livez").status == 200


def _metrics(broker: RunningBroker) -> str:
    return broker.operations("/metrics").body.decode()


def test_the_database_is_for_its_owner_alone(broker: RunningBroker) -> None:
    assert broker.place.database.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(f"file:{broker.place.database}?mode=ro", uri=True)) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
