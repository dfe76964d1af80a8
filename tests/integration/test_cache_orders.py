"""Orders to the cache of a whole broker: by `broker cache` over mTLS, and by a signed webhook."""

import base64
import hmac
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from broker.cli.sandbox import OPERATOR, sandbox
from broker.key_file import write_private
from tests.running import RunningBroker, audit, serving
from tests.waiting import wait_until

KEY = os.urandom(32)
API_KEY = "vault:secret/logflux#api_key"


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with sandbox(fresh_for="5m") as place:
        write_private(place.directory / "hook.key", b"whsec_" + base64.b64encode(KEY))
        environment = {"LOGFLUX_WEBHOOK__KEY_FILES": json.dumps([str(place.directory / "hook.key")])}
        with serving(place, environment=environment) as it:
            yield it


def replace_key(broker: RunningBroker, key: bytes) -> None:
    """Replace the file of the key as its owner would, in one step."""
    file = broker.place.directory / "hook.key"
    new = file.with_suffix(".new")
    write_private(new, b"whsec_" + base64.b64encode(key))
    new.replace(file)


def cache(broker: RunningBroker, *arguments: str, agent: str = "operator") -> "subprocess.CompletedProcess[str]":
    certificate, key = broker.place.certificate(agent)
    options = ["--url", broker.place.url, "--ca", broker.place.authority, "--cert", certificate, "--key", key]
    command = [sys.executable, "-m", "broker", "cache", *arguments, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def value(broker: RunningBroker) -> str:
    return str(broker.resolve(API_KEY).json["results"][0]["value"])


def webhook(broker: RunningBroker, body: object, *, key: bytes = KEY) -> int:
    raw, at = json.dumps(body).encode(), int(time.time())
    identifier = f"msg_{os.urandom(8).hex()}"
    digest = hmac.digest(key, f"{identifier}.{at}.".encode() + raw, "sha256")
    request = urllib.request.Request(
        f"http://127.0.0.1:{broker.place.operations_port}/v1/cache/webhook",
        data=raw,
        headers={
            "Content-Type": "application/json",
            "Webhook-Id": identifier,
            "Webhook-Timestamp": str(at),
            "Webhook-Signature": "v1," + base64.b64encode(digest).decode(),
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_operator_makes_a_new_value_seen_at_once(broker: RunningBroker) -> None:
    broker.write_api_key("one")
    cache(broker, "invalidate", "--everything")
    assert value(broker) == "one"
    broker.write_api_key("two")
    assert value(broker) == "one", "it is fresh for five minutes"
    done = cache(broker, "invalidate", "vault:secret/**")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 source forgotten\n", "")
    assert value(broker) == "two"
    broker.write_api_key("three")
    done = cache(broker, "refresh", API_KEY)
    assert (done.returncode, done.stdout) == (0, "1 source to be read again\n")
    wait_until(lambda: value(broker) == "three")


def test_a_signed_webhook_makes_a_new_value_seen_at_once(broker: RunningBroker) -> None:
    before = value(broker)
    broker.write_api_key("signed")
    order = {"action": "refresh", "references": ["vault:secret/logflux"]}
    # Refusals are limited, and another test may have used them up.
    wait_until(lambda: webhook(broker, order, key=b"x" * 32) == 401)
    assert value(broker) == before
    assert webhook(broker, order) == 200
    wait_until(lambda: value(broker) == "signed")


def test_a_webhook_key_that_was_replaced_counts_without_a_restart(broker: RunningBroker) -> None:
    order = {"action": "refresh", "references": ["vault:secret/logflux"]}
    replaced = os.urandom(32)
    replace_key(broker, replaced)
    wait_until(lambda: webhook(broker, order, key=replaced) == 200)
    # Not yet only while refusals are limited, which the waiting above has used up.
    wait_until(lambda: webhook(broker, order) == 401)
    replace_key(broker, KEY)
    wait_until(lambda: webhook(broker, order) == 200)
    found = audit(broker, "search", "--type", "configuration", "--json").stdout
    assert '"part":"webhook_keys"' in found.replace(" ", "")
    assert base64.b64encode(replaced).decode() not in found + broker.log


def test_an_agent_gives_no_orders_and_an_operator_gets_no_values(broker: RunningBroker) -> None:
    refused = cache(broker, "invalidate", "--everything", agent="shipper")
    assert refused.returncode == 1
    assert "error[not_administrator]" in refused.stderr
    answer = broker.resolve(API_KEY, agent="operator")
    assert (answer.status, answer.json["code"]) == (403, "reference_denied")
    form = f"grant_type=client_credentials&client_id={OPERATOR}&scope=env:LOGFLUX_PAT"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    token = broker.send("POST", "/oauth2/token", form, agent="operator", headers=headers)
    assert (token.status, token.json["error"]) == (400, "invalid_scope")


def test_orders_are_in_the_trail(broker: RunningBroker) -> None:
    cache(broker, "refresh", "vault:secret/other")
    found = audit(broker, "search", "--type", "cache", "--json")
    assert found.returncode == 0
    assert "vault:secret/other" in found.stdout
    assert OPERATOR in found.stdout


@pytest.mark.parametrize("arguments", [[], ["--everything", "env:A"]])
def test_an_order_without_an_object_is_a_wrong_command_line(broker: RunningBroker, arguments: list[str]) -> None:
    done = cache(broker, "invalidate", *arguments)
    assert done.returncode == 2
    assert "--everything" in done.stderr


def test_a_malformed_pattern_is_told_with_its_position(broker: RunningBroker) -> None:
    done = cache(broker, "invalidate", "vault:secret/x*")
    assert done.returncode == 1
    assert "error[pattern_malformed]: references[0], character 15" in done.stderr
