"""Traces of a real broker, at a receiver that speaks the protocol's own messages."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from broker.cli.sandbox import SHIPPER, Sandbox, sandbox
from broker.trace_context import parse_traceparent
from tests.receivers import attributes, receiving
from tests.relays import relaying
from tests.running import RunningBroker, serving

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
REFERENCE = "vault:secret/logflux#api_key"


@pytest.fixture(scope="module")
def place() -> Iterator[Sandbox]:
    with sandbox(fresh_for="5m") as it:
        yield it


def ask(broker: RunningBroker, *references: str, sampled: bool = True) -> int:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-0{int(sampled)}"}
    return broker.post("/v1/resolve", json.dumps({"references": references}), headers=headers).status


def test_a_request_is_one_trace_from_the_agent_over_the_broker_to_the_store(place: Sandbox) -> None:
    with receiving() as receiver, relaying(place.store_address) as relay:
        settings = place.settings_file.read_text()
        place.settings_file.write_text(settings.replace(place.store_address, relay.address))
        value = place.ask_store("GET", "secret/data/logflux")
        with serving(place, environment={"LOGFLUX_TRACING__ENDPOINT": receiver.endpoint}) as broker:
            assert ask(broker, REFERENCE) == 200
            assert ask(broker, "vault:secret/nothing#x") == 403
            log = [json.loads(line) for line in broker.log.splitlines()]
            assert broker.terminate() == 0
        place.settings_file.write_text(settings)
    assert receiver.services == {"logflux-broker"}
    assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}
    good, refused = receiver.named("POST /v1/resolve")
    assert good.parent_span_id.hex() == refused.parent_span_id.hex() == PARENT
    told = attributes(good)
    assert (told["http.route"], told["http.response.status_code"]) == ("/v1/resolve", 200)
    assert (told["broker.identity"], told["broker.references.ok"]) == (SHIPPER, 1)
    assert told["broker.request_id"] in {line.get("request") for line in log if line.get("trace_id") == TRACE}
    assert attributes(refused)["error.type"] == "reference_denied"
    [fetch] = receiver.named("fetch vault")
    assert fetch.parent_span_id == good.span_id
    assert [span.parent_span_id for span in receiver.named("audit")] == [good.span_id, refused.span_id]
    # The store's own spans would hang below the read.
    [sent] = {trace for trace in relay.traces("/secret/data/") if trace}
    place_of_read = parse_traceparent([sent])
    assert place_of_read is not None
    assert (place_of_read.trace_id, place_of_read.parent_id) == (TRACE, fetch.span_id.hex())
    for hidden in (str(value["data"]["data"]["api_key"]), "secret/logflux", "secret/nothing"):
        assert hidden.encode() not in receiver.raw


def test_references_are_in_spans_at_debug_alone_and_values_never(place: Sandbox) -> None:
    value = place.ask_store("GET", "secret/data/logflux")
    with receiving() as receiver:
        environment = {"LOGFLUX_TRACING__ENDPOINT": receiver.endpoint, "LOGFLUX_LOG_LEVEL": "debug"}
        with serving(place, environment=environment) as broker:
            assert ask(broker, REFERENCE) == 200
            assert broker.terminate() == 0
    [fetch] = receiver.named("fetch vault")
    assert attributes(fetch)["broker.reference"] == "vault:secret/logflux"
    assert str(value["data"]["data"]["api_key"]).encode() not in receiver.raw


def test_an_agent_that_does_not_sample_is_not_traced(place: Sandbox) -> None:
    with (
        receiving() as receiver,
        serving(place, environment={"LOGFLUX_TRACING__ENDPOINT": receiver.endpoint}) as broker,
    ):
        assert ask(broker, REFERENCE, sampled=False) == 200
        assert broker.terminate() == 0
    assert receiver.spans == []


@pytest.mark.parametrize("dead", ["refuses", "hangs"])
def test_a_dead_receiver_changes_nothing_for_agents_and_the_broker_ends_all_the_same(place: Sandbox, dead: str) -> None:
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{hanging.getsockname()[1]}/v1/traces"
        if dead == "hangs":
            # The kernel completes the connection, and nobody ever answers.
            hanging.listen()
        environment = {"LOGFLUX_TRACING__ENDPOINT": endpoint, "LOGFLUX_TRACING__FLUSH_SECONDS": "1"}
        with serving(place, environment=environment) as broker:
            assert {ask(broker, REFERENCE) for _ in range(20)} == {200}
            assert broker.terminate() == 0
            assert all(json.loads(line) for line in broker.log.splitlines())


def test_the_sdk_is_imported_only_when_traces_are_wanted() -> None:
    code = "import sys, broker.app; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_without_the_extra_the_start_is_refused_and_says_what_to_install(place: Sandbox) -> None:
    # A finder in front makes the package as absent as it is without the extra.
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'opentelemetry': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from broker.__main__ import main\n"
        "import os; os.environ['LOGFLUX_TRACING__ENDPOINT'] = 'http://127.0.0.1:4318/v1/traces'\n"
        f"sys.exit(main([sys.argv[1], '--config', {str(place.settings_file)!r}]))"
    )
    for verb in ("serve", "check-config"):
        done = subprocess.run(
            [sys.executable, "-c", code, verb], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 3, done.stdout + done.stderr
        assert "pip install 'logflux-broker[otel]'" in done.stdout + done.stderr
