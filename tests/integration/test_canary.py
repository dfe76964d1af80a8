"""One canary value goes through every path, and is found only in the answer to its rightful reader."""

import base64
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.sandbox import SHIPPER, store_request
from tests.running import RunningBroker, running

CANARY = "Kanarie/4711+geheim&süß"


def spellings(value: str) -> dict[str, bytes]:
    raw = value.encode()
    return {
        "raw": raw,
        "base64": base64.b64encode(raw),
        "base64 without padding": base64.urlsafe_b64encode(raw).rstrip(b"="),
        "url": urllib.parse.quote(value, safe="").encode(),
        "hex": raw.hex().encode(),
        "json": value.encode("unicode_escape"),
    }


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    # At debug the log tells most.
    with running(environment={"LOGFLUX_LOG_LEVEL": "debug"}) as it:
        place = it.place
        data = {"data": {"api_key": CANARY, "number": 4711, "nested": {"key": CANARY}}}
        store_request(place.store_address, place.store_token, "POST", "secret/data/logflux", data)
        canary_file = place.files / "canary"
        canary_file.touch(mode=0o600)
        canary_file.write_text(CANARY)
        yield it


def agent_get(broker: RunningBroker, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    certificate, key = broker.place.certificate("shipper")
    who = ["--url", broker.place.url, "--ca", broker.place.authority, "--cert", certificate, "--key", key]
    return subprocess.run(
        [sys.executable, "-m", "broker", "get", *who, *arguments], capture_output=True, timeout=60, check=False
    )


def test_the_canary_reaches_its_rightful_reader_and_nothing_else(broker: RunningBroker) -> None:
    rightful = [
        broker.resolve("vault:secret/logflux#api_key"),
        broker.resolve("vault:secret/logflux#/nested/key", f"{broker.place.files}/canary"),
    ]
    for answer in rightful:
        assert answer.status == 200, answer.body
        assert all(CANARY in str(result["value"]) for result in answer.json["results"])

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    identity = urllib.parse.quote(SHIPPER, safe="")
    quoted = urllib.parse.quote(CANARY, safe="")
    others = [
        broker.resolve("vault:secret/logflux#api_key", agent="stranger"),
        broker.resolve("vault:secret/logflux#api_key", "vault:secret/logflux#nothing"),
        broker.resolve("vault:secret/logflux?decode=base64#api_key"),
        broker.resolve("vault:secret/logflux?version=99#api_key"),
        broker.resolve("vault:secret/logflux#/api_key/deeper"),
        # A caller may put the secret itself where a reference belongs.
        broker.resolve(CANARY),
        broker.resolve("env:LOGFLUX_PAT", token=f"{base64.urlsafe_b64encode(CANARY.encode()).decode()}.e30.e30"),
        broker.post("/v1/resolve", f'{{"references": ["{CANARY}"], "{CANARY}": 1}}'.encode()),
        broker.post("/v1/resolve", f'{{"references": "{CANARY}"}}'.encode()),
        broker.post("/v1/resolve", CANARY.encode()),
        broker.post("/oauth2/token", f"grant_type={quoted}&client_id={identity}&scope={quoted}", headers=form),
        broker.post("/oauth2/token", f"grant_type=client_credentials&client_id={quoted}&scope=env%3AX", headers=form),
    ]
    places: dict[str, bytes] = {f"answer {number} ({a.status})": a.body for number, a in enumerate(others)}
    places["metrics"] = broker.operations("/metrics").body
    places["readiness"] = broker.operations("/readyz").body
    for name in ("written", "no-such-directory/refused"):
        done = agent_get(broker, "--output", str(broker.place.directory / name), "vault:secret/logflux#api_key")
        places[f"get --output {name}"] = done.stdout + done.stderr
    assert (broker.place.directory / "written").read_text() == CANARY
    places["command line"] = Path(f"/proc/{broker.child.handle.pid}/cmdline").read_bytes()
    assert broker.terminate() == 0
    places["log"] = broker.child.log.read_bytes()
    state = broker.place.directory / "state"
    places |= {file.name: file.read_bytes() for file in state.iterdir() if file.is_file()}

    assert {"log", "metrics", "audit.db", "checkpoints.log"} <= places.keys()
    found = [
        (place, spelling)
        for place, content in places.items()
        for spelling, needle in spellings(CANARY).items()
        if needle in content
    ]
    assert found == []
