"""`broker demo`: show the whole path once, with a real store and a real agent, and clean up."""

import argparse
import http.client
import json
import ssl
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from broker.cli.child import SandboxError, process, wait_for
from broker.cli.sandbox import SHIPPER, Sandbox, sandbox

_FRESH_SECONDS: Final = 2
_SHOWN_METRICS: Final = (
    "broker_references_total",
    "broker_handshakes_total",
    "broker_upstream_requests_total",
    "broker_audit_events_total",
)

# The security guide's own example of an agent's configuration, references in the place of secrets.
SHIPPER_CONFIGURATION: Final = """\
# logflux-agent.yaml: no secret in it, so it may be committed
endpoint: vault:secret/logflux#endpoint
api_key: vault:secret/logflux#api_key
pat: ${{LOGFLUX_PAT}}
tls_passphrase: {files}/tls_passphrase
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "It takes free ports and a temporary directory, and leaves nothing running.\n\nexample:\n  broker demo"
    )


def run(_arguments: argparse.Namespace) -> int:
    """Show it."""
    _say("1", "start a real OpenBao, make a CA and certificates, start the broker on SQLite")
    with sandbox(fresh_for=f"{_FRESH_SECONDS}s") as place:
        command = [sys.executable, "-m", "broker", "serve", "--config", str(place.settings_file)]
        with process(command, log=place.directory / "broker.log") as broker:
            wait_for(f"http://127.0.0.1:{place.operations_port}/readyz", broker)
            _show(place)
    print("\nEverything is stopped and removed. Try it yourself: make run")
    return 0


def _show(place: Sandbox) -> None:
    configuration = SHIPPER_CONFIGURATION.format(files=place.files)
    _say("2", "a log shipper's configuration, and what it gets for it over mTLS")
    print(_indented(configuration))
    wanted = {name: str(value) for name, value in yaml.safe_load(configuration).items()}
    first = _resolve(place, "shipper", list(wanted.values()))
    _print_table(wanted, first["results"])

    _say("3", "another agent asks for the same key, and is refused (whether it exists or not)")
    refused = _resolve(place, "stranger", ["vault:secret/logflux#api_key"])
    print(f"  {refused['status']} {refused['code']}: {refused['results'][0]['detail']}")

    _say("4", "a token for one reference, bound to the shipper's certificate, and what it narrows to")
    _show_token(place)

    _say("5", "who was refused, and that nobody changed the trail")
    _run_verb("audit", "search", "--database", str(place.database), "--outcome", "failure")
    _run_verb("audit", "verify", "--database", str(place.database))

    _say("6", "what Prometheus sees")
    for line in _operations(place, "/metrics").splitlines():
        if line.startswith(_SHOWN_METRICS) and not line.endswith(" 0.0"):
            print(f"  {line}")

    _say("7", "kill the store; the shipper still starts, and is told that the answer is old")
    place.store.kill()
    time.sleep(_FRESH_SECONDS + 0.5)
    _print_table(wanted, _resolve(place, "shipper", list(wanted.values()))["results"])


def _show_token(place: Sandbox) -> None:
    form = {"grant_type": "client_credentials", "client_id": SHIPPER, "scope": "vault:secret/logflux#endpoint"}
    body = urllib.parse.urlencode(form)
    granted = _post(place, "shipper", "/oauth2/token", body, {"Content-Type": "application/x-www-form-urlencoded"})
    token = granted["access_token"]
    print(f"  scope {granted['scope']}, {granted['expires_in']} seconds, {_masked(token)}")
    references = ["vault:secret/logflux#endpoint", "vault:secret/logflux#api_key"]
    narrowed = _resolve(place, "shipper", references, token=token, require="any")
    for result in narrowed["results"]:
        print(f"  {result['reference']:34} {result['status']}")
    stolen = _resolve(place, "stranger", references[:1], token=token)
    print(f"  the same token on another certificate: {stolen['status']} {stolen['code']}")


def _resolve(
    place: Sandbox, agent: str, references: Sequence[str], *, token: str | None = None, require: str = "all"
) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return _post(place, agent, "/v1/resolve", json.dumps({"references": references, "require": require}), headers)


def _post(place: Sandbox, agent: str, path: str, body: str, headers: dict[str, str]) -> dict[str, Any]:
    certificate, key = place.certificate(agent)
    context = ssl.create_default_context(cafile=str(place.authority))
    context.load_cert_chain(certificate, key)
    connection = http.client.HTTPSConnection("127.0.0.1", place.agent_port, context=context, timeout=15)
    try:
        connection.request("POST", path, body, headers)
        return dict(json.loads(connection.getresponse().read()))
    finally:
        connection.close()


def _operations(place: Sandbox, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{place.operations_port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def _run_verb(*arguments: str) -> None:
    """Show a command of the operator's as they would type it, and what it prints."""
    shown = " ".join(Path(word).name if word.startswith("/") else word for word in arguments)
    print(f"  $ broker {shown}")
    done = subprocess.run(  # noqa: S603  The broker's own commands.
        [sys.executable, "-m", "broker", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    print(_indented(done.stdout.rstrip() + done.stderr.rstrip()))
    if done.returncode:
        message = f"broker {arguments[0]} {arguments[1]} ended with {done.returncode}"
        raise SandboxError(message)


def _print_table(wanted: dict[str, str], results: list[dict[str, Any]]) -> None:
    print(f"  {'setting':16} {'status':12} {'value':22} {'fresh until':22}")
    for name, result in zip(wanted, results, strict=True):
        value = _masked(str(result["value"])) if "value" in result else result.get("detail", "")
        print(f"  {name:16} {result['status']:12} {value:22} {result.get('fresh_until') or '-':22}")


def _masked(value: str) -> str:
    """Return enough of a throw-away value to recognise it."""
    return f"{value[:4]}{'*' * 8} ({len(value)} chars)"


def _say(number: str, text: str) -> None:
    print(f"\n[{number}] {text}", flush=True)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
