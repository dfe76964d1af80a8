"""A trace goes through the broker: from the agent's header to the log, the trail and the store."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.sandbox import sandbox
from broker.providers.vault.provider import VaultProvider
from broker.reference import parse
from broker.trace_context import CURRENT, TraceContext
from tests.openbao import OpenBao
from tests.relays import Relay, relaying
from tests.running import RunningBroker, serving
from tests.vaults import closing, private, provider_of
from tests.waiting import until

__all__ = ["closing"]

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[RunningBroker, Relay]]:
    with sandbox(fresh_for="5m") as place, relaying(place.store_address) as relay:
        settings = place.settings_file.read_text()
        assert place.store_address in settings
        place.settings_file.write_text(settings.replace(place.store_address, relay.address))
        with serving(place) as broker:
            yield broker, relay


def ask(broker: RunningBroker, reference: str, traceparent: str | None) -> str:
    """Return the id of a request that got its value."""
    headers = {} if traceparent is None else {"traceparent": traceparent}
    answer = broker.post("/v1/resolve", json.dumps({"references": [reference]}), headers=headers)
    assert answer.status == 200, answer.body
    assert TRACE not in str(answer.headers) + answer.body.decode()
    return answer.headers["X-Request-Id"]


def unread(broker: RunningBroker) -> str:
    """Return a reference that is in nobody's memory."""
    place = broker.place
    data = {"data": {"fresh": "x"}}
    place.ask_store("POST", "secret/data/logflux", data)
    version = place.ask_store("GET", "secret/metadata/logflux")
    return f"vault:secret/logflux?version={version['data']['current_version']}#fresh"


def line_of(broker: RunningBroker, request: str) -> dict[str, object]:
    lines = [json.loads(line) for line in broker.log.splitlines()]
    [line] = [line for line in lines if line["event"] == "request" and line["request"] == request]
    return dict(line)


def record_of(broker: RunningBroker, request: str) -> bytes:
    with contextlib.closing(sqlite3.connect(f"file:{broker.place.database}?mode=ro", uri=True)) as connection:
        [row] = connection.execute("SELECT body FROM record WHERE instr(body, ?) > 0", (request.encode(),)).fetchall()
    return bytes(row[0])


def test_the_trace_reaches_the_store_the_log_and_the_trail(both: tuple[RunningBroker, Relay]) -> None:
    broker, relay = both
    relay.asked.clear()
    request = ask(broker, unread(broker), TRACEPARENT)
    assert set(relay.traces("/secret/data/")) == {TRACEPARENT}
    assert line_of(broker, request)["trace_id"] == TRACE
    assert json.loads(record_of(broker, request))["details"] == {"trace_id": TRACE}


def test_a_request_without_a_trace_makes_none(both: tuple[RunningBroker, Relay]) -> None:
    broker, relay = both
    relay.asked.clear()
    request = ask(broker, unread(broker), None)
    assert set(relay.traces("/secret/data/")) == {None}
    assert line_of(broker, request)["trace_id"] == ""
    assert b"trace_id" not in record_of(broker, request)


@pytest.mark.parametrize("hostile", [TRACEPARENT.upper(), f"{TRACEPARENT}, x", f"{TRACEPARENT}-\xe9", "x" * 4000])
def test_a_malformed_trace_is_ignored_and_shown_nowhere(both: tuple[RunningBroker, Relay], hostile: str) -> None:
    broker, relay = both
    relay.asked.clear()
    request = ask(broker, unread(broker), hostile)
    assert set(relay.traces("/secret/data/")) == {None}
    assert line_of(broker, request)["trace_id"] == ""
    assert hostile not in broker.log
    assert hostile.encode() not in record_of(broker, request)


async def test_the_renewal_of_the_brokers_token_belongs_to_no_request(openbao: OpenBao, tmp_path: Path) -> None:
    openbao.policy("traced", 'path "secret/*" { capabilities = ["read"] }')
    role_id, secret_id = openbao.approle("traced", ["traced"], token_period="1s")
    openbao.put_secret("traced", v="x")
    with relaying(openbao.address) as relay:
        files = {"role_id": role_id, "secret_id_file": str(private(tmp_path / "secret_id", secret_id))}
        provider: VaultProvider = provider_of(relay.address, {"approle": files})
        token = CURRENT.set(TraceContext(TRACE, PARENT, sampled=True))
        await provider.fetch(parse("vault:secret/traced#v").source)
        CURRENT.reset(token)
        await until(lambda: len(relay.traces("renew-self")) > 0)
        await provider.aclose()
    assert set(relay.traces("renew-self")) == {None}
    assert set(relay.traces("/secret/data/")) == {TRACEPARENT}
