"""One canary value goes through every path, and is found only in the answer to its rightful reader."""

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from broker.cli.sandbox import SHIPPER, sandbox
from broker.cli.sandbox_store import BROKER_RULES_IN_THE_STORE
from broker.key_file import write_private
from tests.certificates import TestAuthority
from tests.openbao import Files as StoreFiles
from tests.openbao import OpenBao
from tests.proxies import squid
from tests.receivers import Receiver, receiving
from tests.running import RunningBroker, audit, running, serving, verb
from tests.vaults import private
from tests.waiting import wait_until

CANARY = "Kanarie/4711+geheim&süß"


def spellings(value: str) -> dict[str, bytes]:
    raw = value.encode()
    return {
        "raw": raw,
        "base64": base64.b64encode(raw),
        "base64 without padding": base64.urlsafe_b64encode(raw).rstrip(b"="),
        "url": urllib.parse.quote(value, safe="").encode(),
        # Inside a longer text that is base64 as a whole, it may begin at each of three places.
        "base64 behind 1 byte": base64.b64encode(b"x" + raw)[2:-4],
        "base64 behind 2 bytes": base64.b64encode(b"xx" + raw)[3:-4],
        "hex": raw.hex().encode(),
        "hex in capitals": raw.hex().upper().encode(),
        "json": json.dumps(value)[1:-1].encode(),
        "python": value.encode("unicode_escape"),
        "python bytes": repr(raw)[2:-1].encode(),
    }


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as it:
        yield it


@pytest.fixture(scope="module")
def broker(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    sealing_key = tmp_path_factory.mktemp("sealing") / "key"
    write_private(sealing_key, os.urandom(32))
    environment = {
        # At debug the log tells most.
        "LOGFLUX_LOG_LEVEL": "debug",
        "LOGFLUX_TRACING__ENDPOINT": receiver.endpoint,
        "LOGFLUX_CACHE__SEALED_KEY_FILE": str(sealing_key),
    }
    with running(environment=environment) as it:
        place = it.place
        data = {"data": {"api_key": CANARY, "number": 4711, "nested": {"key": CANARY}}}
        place.ask_store("POST", "secret/data/logflux", data)
        canary_file = place.files / "canary"
        canary_file.touch(mode=0o600)
        canary_file.write_text(CANARY)
        # One whose answer is written in pieces.
        large_file = place.files / "large"
        large_file.touch(mode=0o600)
        large_file.write_text(CANARY * 20_000)
        yield it


def agent_get(broker: RunningBroker, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    certificate, key = broker.place.certificate("shipper")
    who = ["--url", broker.place.url, "--ca", broker.place.authority, "--cert", certificate, "--key", key]
    return subprocess.run(
        [sys.executable, "-m", "broker", "get", *who, *arguments], capture_output=True, timeout=60, check=False
    )


# What the store's own error echoes, when its database can't be reached; no value, and as foreign to every record.
ECHOED = "kanarie4711geheim"
CREDENTIAL = "vault:database/creds/app#password"
RAW = "vault:pki/ca/pem"
CERTIFICATE = "vault:pki/issue/agent?common_name=a.example#private_key"


def values_of_engines(broker: RunningBroker) -> tuple[bytes, bytes]:
    """Return the hearts of a private key that the store made for the shipper, and of what an engine gives without JSON.

    Both are random, and so canaries by themselves.
    """
    place = broker.place

    def tell(method: str, path: str, body: dict[str, object]) -> None:
        place.ask_store(method, path, body)

    tell("POST", "sys/mounts/pki", {"type": "pki"})
    tell("POST", "pki/root/generate/internal", {"common_name": "canary", "ttl": "24h"})
    tell("POST", "pki/roles/agent", {"allowed_domains": "a.example", "allow_bare_domains": True, "max_ttl": "1h"})
    tell("POST", "sys/mounts/database", {"type": "database"})
    connection = {
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": "app",
        "username": ECHOED,
        "password": "x",
        "verify_connection": False,
        "connection_url": "user='{{username}}' password='{{password}}' host=127.0.0.1 port=1 dbname=app",
    }
    tell("POST", "database/config/pg", connection)
    tell("POST", "database/roles/app", {"db_name": "pg", "creation_statements": ["x"]})
    rules = """
path "pki/issue/agent" { capabilities = ["update"] }
path "database/creds/app" { capabilities = ["read"] }
path "pki/ca/pem" { capabilities = ["read"] }
"""
    tell("PUT", "sys/policies/acl/broker", {"policy": BROKER_RULES_IN_THE_STORE + rules})
    policy = place.settings_file.with_name("policy.yaml")
    allowed = f'"env:LOGFLUX_PAT", "{CERTIFICATE}", "{CREDENTIAL}", "{RAW}"'
    policy.write_text(policy.read_text().replace('"env:LOGFLUX_PAT"', allowed))
    wait_until(lambda: broker.resolve(CERTIFICATE).status == 200)
    [result] = broker.resolve(CERTIFICATE).json["results"]
    assert result["lease"]["id"].startswith("lease_")
    [raw] = broker.resolve(RAW).json["results"]
    key, certificate = (str(one["value"]).splitlines()[3].encode() for one in (result, raw))
    return key, certificate


def test_the_canary_reaches_its_rightful_reader_and_nothing_else(broker: RunningBroker, receiver: Receiver) -> None:
    made = values_of_engines(broker)
    rightful = [
        broker.resolve("vault:secret/logflux#api_key"),
        broker.resolve("vault:secret/logflux#/nested/key", f"{broker.place.files}/canary"),
        broker.resolve(large := f"{broker.place.files}/large"),
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
        broker.resolve(CERTIFICATE, agent="stranger"),
        broker.resolve(CREDENTIAL),
        # Too much for one answer.
        broker.resolve(*[large] * 100),
        broker.send("GET", "/v1/leases", None, headers={}),
        broker.send("DELETE", "/v1/leases/lease_nothing", None, headers={}),
        broker.resolve("env:LOGFLUX_PAT", token=f"{base64.urlsafe_b64encode(CANARY.encode()).decode()}.e30.e30"),
        broker.post("/v1/resolve", f'{{"references": ["{CANARY}"], "{CANARY}": 1}}'.encode()),
        broker.post("/v1/resolve", f'{{"references": "{CANARY}"}}'.encode()),
        broker.post("/v1/resolve", CANARY.encode()),
        broker.post("/oauth2/token", f"grant_type={quoted}&client_id={identity}&scope={quoted}", headers=form),
        broker.post("/oauth2/token", f"grant_type=client_credentials&client_id={quoted}&scope=env%3AX", headers=form),
    ]
    places: dict[str, bytes] = {f"answer {number} ({a.status})": a.body for number, a in enumerate(others)}
    places["answer to the secret itself"] = answer_to_the_secret_itself(broker)
    places["metrics"] = broker.operations("/metrics").body
    places["OpenMetrics"] = broker.operations("/metrics", accept="application/openmetrics-text").body
    assert places["OpenMetrics"].endswith(b"# EOF\n")
    places["readiness"] = broker.operations("/readyz").body
    for name in ("written", "no-such-directory/refused"):
        done = agent_get(broker, "--output", str(broker.place.directory / name), "vault:secret/logflux#api_key")
        places[f"get --output {name}"] = done.stdout + done.stderr
    assert (broker.place.directory / "written").read_text() == CANARY
    places["exec"] = agent_exec(broker)
    places["render"] = agent_render(broker)
    for name, arguments in {
        "audit search": ["search"],
        "audit search --json": ["search", "--json"],
        "audit verify": ["verify", "--json"],
    }.items():
        done = audit(broker, *arguments)
        assert done.returncode == 0, done.stderr
        places[name] = (done.stdout + done.stderr).encode()
    for name in ("cmdline", "environ"):
        # Where this is not root, the kernel keeps the environment even from the broker's own user.
        with suppress(PermissionError):
            places[name] = Path(f"/proc/{broker.child.handle.pid}/{name}").read_bytes()
    places |= {f"{file.name} while it runs": file.read_bytes() for file in state_files(broker)}
    assert broker.terminate() == 0
    places["log"] = broker.child.log.read_bytes()
    assert b'"level":"debug"' in places["log"]
    places |= {file.name: file.read_bytes() for file in state_files(broker)}
    places["traces"] = receiver.raw
    assert receiver.named("POST /v1/resolve")

    assert {
        "log",
        "metrics",
        "cmdline",
        "audit.db",
        "audit.db-wal while it runs",
        "checkpoints.log",
        "sealed.cache",
        "state.db",
    } <= places.keys()
    assert all(places[name] for name in ("exec", "audit search", "audit.db-wal while it runs"))
    assert found_in(places) == []
    assert [len(line) for line in made] == [64, 64]
    assert [place for place, content in places.items() if any(line in content for line in made)] == []
    assert b"failed to connect to" in places["audit search"]
    assert [place for place, content in places.items() if ECHOED.encode() in content] == []
    # What proves the broker to its store opens more than any value.
    credential = (broker.place.directory / "secret_id").read_bytes()
    assert [place for place, content in places.items() if credential in content] == []


def answer_to_the_secret_itself(broker: RunningBroker) -> bytes:
    """Return what a caller gets who puts a secret where a reference belongs, without the echo of the reference."""
    answer = broker.resolve(CANARY)
    document = answer.json
    assert document["results"][0].pop("reference") == CANARY
    return json.dumps(document).encode()


def found_in(places: dict[str, bytes]) -> list[tuple[str, str]]:
    """Return where the canary is, and how it is spelled there."""
    return [
        (place, spelling)
        for place, content in places.items()
        for spelling, needle in spellings(CANARY).items()
        if needle in content
    ]


def state_files(broker: RunningBroker) -> list[Path]:
    return [file for file in broker.place.database.parent.iterdir() if file.is_file()]


CHILD = """
import hashlib, os, sys
assert hashlib.sha256(os.environ.pop("API_KEY").encode()).hexdigest() == sys.argv[1]
for number in (os.getpid(), os.getppid()):
    print(open(f"/proc/{number}/cmdline").read())
print(os.environ)
"""


def agent_exec(broker: RunningBroker) -> bytes:
    """Return all that can be seen of `broker exec` and its child, whose environment alone has the value."""
    certificate, key = broker.place.certificate("shipper")
    who = ["--url", broker.place.url, "--ca", broker.place.authority, "--cert", certificate, "--key", key]
    digest = hashlib.sha256(CANARY.encode()).hexdigest()
    wanted = ["--env", "API_KEY=vault:secret/logflux#api_key"]
    command = [sys.executable, "-m", "broker", "exec", *wanted, *who, "--", sys.executable, "-c", CHILD, digest]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def agent_render(broker: RunningBroker) -> bytes:
    """Return all that can be seen of `broker render`, whose file alone has the value."""
    certificate, key = broker.place.certificate("shipper")
    who = ["--url", broker.place.url, "--ca", broker.place.authority, "--cert", certificate, "--key", key]
    seen = b""
    for name in ("rendered", "no-such-directory/rendered"):
        output = broker.place.directory / name
        command = [sys.executable, "-m", "broker", "render", "-", *who, "--output", str(output)]
        template = b"key: ${vault:secret/logflux#api_key}\n"
        done = subprocess.run(command, input=template, capture_output=True, timeout=60, check=False)
        seen += done.stdout + done.stderr
    assert (broker.place.directory / "rendered").read_text() == f"key: {CANARY}\n"
    return seen


def test_what_opens_the_way_to_the_store_is_shown_nowhere(tmp_path: Path) -> None:
    """Both the login of the proxy and the broker's token come by a reference, good ones and then a wrong one."""
    authority = TestAuthority(tmp_path / "pki")
    login = f"broker:{CANARY}"
    files = StoreFiles(*authority.server())
    with sandbox(fresh_for="5m") as place, squid(login=login) as proxy:
        store = OpenBao(tmp_path / "bao", tls=files)
        store.mount("secret", "kv", {"version": "2"})
        store.put_secret("logflux", api_key="plain")
        token = store.token("root")
        own = private(tmp_path / "own.env", f"PROXY_LOGIN='{login}'\nSTORE_TOKEN={token}\n")
        settings = yaml.safe_load(place.settings_file.read_text())
        settings["providers"]["env"] |= {"own_names": ["PROXY_LOGIN", "STORE_TOKEN"], "env_files": [str(own)]}
        settings["providers"]["vault"] = {
            "address": f"https://localhost:{store.port}",
            "ca_file": str(authority.ca_path),
            "proxy": {"address": f"http://127.0.0.1:{proxy.port}", "credentials": "${PROXY_LOGIN}"},
            "auth": {"token": "${STORE_TOKEN}"},
        }
        place.settings_file.write_text(yaml.safe_dump(settings))
        with serving(place, environment={"LOGFLUX_LOG_LEVEL": "debug"}) as broker:
            answers = [broker.resolve("vault:secret/logflux#api_key"), broker.resolve("env:PROXY_LOGIN")]
            assert [answer.status for answer in answers] == [200, 403]
            private(own, f"PROXY_LOGIN='wrong:{CANARY}'\nSTORE_TOKEN={token}\n")
            wait_until(lambda: broker.operations("/readyz").status == 503)
            places = {"ready": broker.operations("/readyz").body, "metrics": broker.operations("/metrics").body}
            answers.append(broker.resolve("vault:secret/logflux?version=1#api_key"))
            assert b"the proxy refuses" in places["ready"]
            for name in ("cmdline", "environ"):
                with suppress(PermissionError):
                    places[name] = Path(f"/proc/{broker.child.handle.pid}/{name}").read_bytes()
            assert broker.terminate() == 0
        places |= {f"answer {number}": answer.body for number, answer in enumerate(answers)}
        places |= {
            "log": broker.child.log.read_bytes(),
            **{file.name: file.read_bytes() for file in state_files(broker)},
        }
        shown = run_config_show(place.settings_file)
        store.close()
    assert {"log", "audit.db", "metrics"} <= places.keys()
    places["config show"] = shown
    assert found_in(places) == []
    assert [name for name, content in places.items() if token.encode() in content] == []


def run_config_show(settings: Path) -> bytes:
    done = verb("config", "show", "--config", str(settings))
    assert "${PROXY_LOGIN}" in done.stdout
    return (done.stdout + done.stderr).encode()


def test_no_object_that_holds_the_canary_shows_it_and_no_bug_tells_it() -> None:
    surroundings = {"LOGFLUX_LOG_LEVEL": "debug", "CANARY": CANARY}
    with sandbox(fresh_for="5m") as place:
        data = {"data": {"api_key": CANARY, "endpoint": CANARY}}
        place.ask_store("POST", "secret/data/logflux", data)
        with serving(place, environment=surroundings, module="tests.injecting") as broker:
            assert broker.resolve("vault:secret/logflux#api_key").json["results"][0]["value"] == CANARY
            look_at_every_object(broker)
            broker.child.handle.send_signal(signal.SIGUSR2)
            wait_until(lambda: "SWITCHED ON" in broker.log)
            answers = [
                broker.resolve("vault:secret/logflux#api_key"),
                broker.resolve("vault:secret/logflux?version=1#api_key"),
                broker.resolve("vault:secret/logflux?version=1#api_key", require="any"),
            ]
            assert [answer.status for answer in answers] == [500] * 3
            metrics = broker.operations("/metrics").body
            look_at_every_object(broker)
            assert broker.terminate() == 0
        places: dict[str, bytes] = {f"answer {number}": answer.body for number, answer in enumerate(answers)}
        places |= {"log": broker.child.log.read_bytes(), "metrics": metrics}
        places |= {file.name: file.read_bytes() for file in state_files(broker)}
    assert found_in(places) == []
    # Each bug is told by its type and its place: in the handler, behind the cache, in a task and in a callback.
    for kind in (b"ValueError", b"ArithmeticError", b"RuntimeError", b"LookupError"):
        assert re.search(rb'"error":"%b","at":"injecting.py:[0-9]+"' % kind, places["log"]), kind


def look_at_every_object(broker: RunningBroker) -> None:
    before = broker.log.count("LOOKED")
    broker.child.handle.send_signal(signal.SIGUSR1)
    wait_until(lambda: broker.log.count("LOOKED") > before)
    seen = re.findall(r"LOOKED objects=([0-9]+) holders=([0-9]+) shown=(.*)", broker.log)[-1]
    assert int(seen[0]) >= 20
    assert int(seen[1]) >= 1
    assert seen[2] == "[]"
