"""Database credentials and certificates out of a whole broker, counted in the store and in PostgreSQL."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.cli.sandbox import OPERATOR, SHIPPER, Sandbox
from tests.leasing import (
    LEASE_RULES,
    MINTER_RULES,
    PASSWORD,
    POLICY,
    SEEING_RULES,
    USER,
    Store,
    leasing_sandbox,
)
from tests.postgres import PostgreSQL, postgres
from tests.running import Answer, RunningBroker, audit, serving
from tests.waiting import wait_until

__all__ = ["postgres"]


CANT_REVOKE = "the store can't revoke the lease now; what it opens may be away"


@pytest.fixture(scope="module")
def place(postgres: PostgreSQL) -> Iterator[tuple[Sandbox, Store]]:
    """Return one store for all; every test ends with no lease in it, or leaves its own to the next."""
    with leasing_sandbox(postgres, settings="watch: { interval_seconds: 0.2 }\n") as it:
        yield it


@pytest.fixture(scope="module")
def broker(place: tuple[Sandbox, Store]) -> Iterator[RunningBroker]:
    with serving(place[0]) as it:
        yield it


def credential(broker: RunningBroker, agent: str = "shipper") -> tuple[str, str, dict[str, Any]]:
    answer = broker.resolve(USER, PASSWORD, agent=agent)
    assert answer.status == 200, answer.body
    user, password = answer.json["results"]
    assert user["lease"] == password["lease"]
    return user["value"], password["value"], user["lease"]


def test_both_fields_of_a_request_come_from_one_lease_that_opens_the_database(
    broker: RunningBroker, postgres: PostgreSQL
) -> None:
    user, password, lease = credential(broker)
    assert postgres.logs_in(user, password)
    assert lease["id"].startswith("lease_")
    assert lease["renewable"] is True
    assert credential(broker) == (user, password, lease)
    other = credential(broker, agent="stranger")
    assert other[0] != user
    assert postgres.logs_in(*other[:2])


@pytest.mark.parametrize("role", [True, False], ids=["under tokens of their own", "under the broker's token"])
def test_a_stop_revokes_every_lease(postgres: PostgreSQL, role: bool) -> None:
    with leasing_sandbox(postgres, role=role) as (sandbox, store), serving(sandbox) as broker:
        user, password, lease = credential(broker)
        other = credential(broker, agent="stranger")
        assert len(store.leases()) == 2
        assert not any(handle in told for handle in store.leases() for told in (lease["id"], other[2]["id"]))
        assert broker.terminate() == 0
        assert store.leases() == set()
        assert not postgres.logs_in(user, password)


def revoke(broker: RunningBroker, lease_id: str, agent: str = "shipper") -> Answer:
    return broker.send("DELETE", f"/v1/leases/{lease_id}", None, headers={}, agent=agent)


def own_leases(broker: RunningBroker, agent: str = "shipper") -> list[dict[str, Any]]:
    answer = broker.send("GET", "/v1/leases", None, headers={}, agent=agent)
    assert answer.status == 200, answer.body
    leases: list[dict[str, Any]] = answer.json["leases"]
    return leases


def give_back(broker: RunningBroker) -> None:
    """Let both identities begin without a lease."""
    for agent in ("shipper", "stranger"):
        for lease in own_leases(broker, agent):
            assert revoke(broker, lease["id"], agent).status in {202, 204, 404}
        wait_until(lambda agent=agent: own_leases(broker, agent) == [])  # type: ignore[misc]  # Bound at once.


def lines(sandbox: Sandbox, *arguments: str) -> list[str]:
    state = sandbox.database.with_name("state.db")
    command = [sys.executable, "-m", "broker", "leases", "--database", str(state), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_an_identity_sees_and_revokes_its_own_leases_alone(
    broker: RunningBroker, place: tuple[Sandbox, Store], postgres: PostgreSQL
) -> None:
    sandbox, store = place
    give_back(broker)
    user, password, lease = credential(broker)
    [shown] = own_leases(broker)
    assert (shown["id"], shown["state"], shown["reference"]) == (lease["id"], "live", "vault:database/creds/app")
    assert own_leases(broker, agent="stranger") == []
    [line] = lines(sandbox)
    assert line.startswith(f"{lease['id']}  live  until ")
    [document] = [json.loads(line) for line in lines(sandbox, "--json", "--identity", SHIPPER)]
    assert document == {**shown, "identity": SHIPPER, "created_at": ANY, "expires_at": ANY}
    assert lines(sandbox, "--identity", "spiffe://nobody.example/x") == []
    for agent, lease_id in (("stranger", lease["id"]), ("shipper", "lease_nothing")):
        answer = revoke(broker, lease_id, agent)
        assert (answer.status, answer.json["code"]) == (404, "lease_unknown")
    assert postgres.logs_in(user, password)
    assert revoke(broker, lease["id"]).status == 204
    assert not postgres.logs_in(user, password)
    assert store.leases() == set()
    assert own_leases(broker) == []
    events = [json.loads(line) for line in audit(broker, "search", "--type", "lease", "--json").stdout.splitlines()]
    assert [event["reason"] for event in events][-2:] == ["minted", "revoked"]
    assert events[-1]["references"][0]["reason"] == "asked"
    assert credential(broker)[0] != user


def take_back(broker: RunningBroker, *arguments: str, agent: str = "operator") -> "subprocess.CompletedProcess[str]":
    certificate, key = broker.place.certificate(agent)
    options = ["--url", broker.place.url, "--ca", broker.place.authority, "--cert", certificate, "--key", key]
    command = [sys.executable, "-m", "broker", "leases", "revoke", *arguments, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_an_operator_takes_leases_back_by_id_identity_reference_or_all_of_them(
    broker: RunningBroker, place: tuple[Sandbox, Store], postgres: PostgreSQL
) -> None:
    _, store = place
    give_back(broker)
    mine, theirs = credential(broker), credential(broker, agent="stranger")
    done = take_back(broker, "--identity", SHIPPER)
    assert (done.returncode, done.stdout) == (0, "1 lease, 1 revoked\n"), done.stderr
    assert not postgres.logs_in(*mine[:2])
    assert postgres.logs_in(*theirs[:2])
    done = take_back(broker, theirs[2]["id"], "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"leases": 1, "revoked": 1, "revoking": []})
    assert not postgres.logs_in(*theirs[:2])
    for named in (("--reference", "vault:database/**"), ("--all",)):
        new = credential(broker)
        assert take_back(broker, *named).returncode == 0
        assert not postgres.logs_in(*new[:2])
    assert store.leases() == set()
    events = [json.loads(line) for line in audit(broker, "search", "--type", "lease", "--json").stdout.splitlines()]
    orders = [event for event in events if event["reason"] == "ordered"][-4:]
    assert [event["identity"] for event in orders] == [OPERATOR] * 4
    assert orders[0]["details"] == {"action": "revoke", "of": SHIPPER}


def test_who_may_not_take_leases_back_and_what_is_not_there_are_told_by_the_command(broker: RunningBroker) -> None:
    for arguments, agent, status, words in (
        (("--all",), "shipper", 1, "error[not_administrator]"),
        (("lease_nothing",), "operator", 1, "error[lease_unknown]"),
        (("--reference", "vault:a//b"), "operator", 1, "error[pattern_malformed]"),
        ((), "operator", 2, "name one of ID, --identity, --reference and --all"),
        (("--all", "--identity", SHIPPER), "operator", 2, "name one of"),
    ):
        done = take_back(broker, *arguments, agent=agent)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        assert words in done.stderr


def test_a_revocation_waits_for_the_database_and_is_done_when_it_is_back(
    broker: RunningBroker, place: tuple[Sandbox, Store], postgres: PostgreSQL
) -> None:
    _, store = place
    give_back(broker)
    user, _, lease = credential(broker)
    postgres.stop()
    try:
        answer = revoke(broker, lease["id"])
        assert (answer.status, answer.json["id"], answer.json["state"]) == (202, lease["id"], "revoking")
        assert (answer.json["code"], answer.json["detail"]) == ("source_unavailable", CANT_REVOKE)
        failed = broker.resolve(USER)
        assert (failed.status, failed.json["results"][0]["code"]) == (503, "source_unavailable")
        assert "the database behind it may be away" in failed.json["results"][0]["detail"]
        assert [each["state"] for each in own_leases(broker) if each["id"] == lease["id"]] == ["revoking"]
        done = take_back(broker, lease["id"])
        assert (done.returncode, done.stdout) == (4, "1 lease, 0 revoked\n")
        assert f"{lease['id']} is being revoked: {CANT_REVOKE}" in done.stderr
        # Other secrets are answered: the store itself is well.
        assert broker.resolve("vault:secret/logflux#api_key").status == 200
    finally:
        postgres.start()
    wait_until(lambda: user not in postgres.roles(), seconds=60)
    wait_until(lambda: own_leases(broker) == [], seconds=60)
    assert store.leases() == set()


def test_a_new_policy_takes_its_leases_back(
    broker: RunningBroker, place: tuple[Sandbox, Store], postgres: PostgreSQL
) -> None:
    sandbox, store = place
    policy = sandbox.settings_file.with_name("policy.yaml")
    give_back(broker)
    mine, theirs = credential(broker), credential(broker, agent="stranger")
    policy.write_text(POLICY.replace("to: [shipper, stranger]", "to: [shipper]"))
    try:
        wait_until(lambda: len(store.leases()) == 1)
        assert postgres.logs_in(*mine[:2])
        assert not postgres.logs_in(*theirs[:2])
        assert broker.resolve(USER, agent="stranger").status == 403
    finally:
        policy.write_text(POLICY)
    wait_until(lambda: broker.resolve(USER, agent="stranger").status == 200)


def test_a_short_lease_is_renewed_while_it_is_asked_for_and_replaced_before_its_hard_end(
    broker: RunningBroker, place: tuple[Sandbox, Store], postgres: PostgreSQL
) -> None:
    _, store = place
    postgres.role(store, "app", default_ttl="3s", max_ttl="8s")
    try:
        give_back(broker)
        first = credential(broker)
        ends = {first[2]["expires_at"]}
        new = first

        def is_replaced() -> bool:
            nonlocal new
            new = credential(broker)
            ends.add(new[2]["expires_at"])
            assert postgres.logs_in(*new[:2]), "what was handed out does not open the database"
            return new[0] != first[0]

        wait_until(is_replaced)
        assert len(ends) > 2, "it was never renewed"
    finally:
        postgres.role(store, "app")
        assert revoke(broker, new[2]["id"]).status == 204


def test_a_watched_lease_is_renewed_and_the_command_gets_the_next_one_when_it_can_live_no_longer(
    broker: RunningBroker, place: tuple[Sandbox, Store], postgres: PostgreSQL, tmp_path: Path
) -> None:
    sandbox, store = place
    give_back(broker)
    postgres.role(store, "app", default_ttl="3s", max_ttl="8s")
    seen = tmp_path / "seen"
    certificate, key = sandbox.certificate("shipper")
    ways = ["--url", sandbox.url, "--ca", str(sandbox.authority), "--cert", str(certificate), "--key", str(key)]
    wanted = ["--env", f"NAME={USER}", "--env", f"WORD={PASSWORD}", "--watch", "--splay", "0"]
    script = ["sh", "-c", f'echo "$(date +%s) $NAME $WORD" >> {seen}; exec sleep 60']
    command = [sys.executable, "-m", "broker", "exec", *ways, *wanted, "--", *script]
    child = subprocess.Popen(command, start_new_session=True)

    def given() -> list[list[str]]:
        return [line.split() for line in seen.read_text().splitlines()] if seen.exists() else []

    try:
        # Nobody asks for it but the watch.
        wait_until(lambda: len(given()) > 1)
        (began, *first), (ended, *second) = given()[:2]
        assert postgres.logs_in(*second)
        assert first != second
        assert int(ended) - int(began) > 3, "it was not renewed"
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(30)
        postgres.role(store, "app")
        give_back(broker)


def test_a_certificate_is_issued_once_for_each_identity_with_all_its_fields(
    broker: RunningBroker, place: tuple[Sandbox, Store]
) -> None:
    wanted = [f"vault:pki/issue/agent?common_name=a.example&ttl=10m#{name}" for name in ("certificate", "private_key")]
    answer = broker.resolve(*wanted)
    assert answer.status == 200, answer.body
    certificate, key = (result["value"].encode() for result in answer.json["results"])
    loaded = x509.load_pem_x509_certificate(certificate)
    assert load_pem_private_key(key, None).public_key() == loaded.public_key()
    lease = answer.json["results"][0]["lease"]
    ends = datetime.fromisoformat(lease["expires_at"])
    assert abs((ends - loaded.not_valid_after_utc).total_seconds()) < 2
    assert broker.resolve(*wanted).json["results"][0]["value"].encode() == certificate
    other = broker.resolve(*wanted, agent="stranger").json["results"][0]["value"].encode()
    assert other != certificate


def test_parameters_that_the_engine_refuses_are_told_and_leave_nothing(
    broker: RunningBroker, place: tuple[Sandbox, Store]
) -> None:
    for reference, status, code, words in (
        (
            "vault:pki/issue/agent?common_name=b.example#certificate",
            422,
            "secret_unusable",
            "refuses what the reference",
        ),
        ("vault:pki/issue/agent?common_name=a.example&ttl=x#certificate", 422, "secret_unusable", "its parameters"),
        ("vault:pki/issue/agent?bogus=1&common_name=a.example#certificate", 422, "secret_unusable", "does not know"),
        ("vault:pki/issue/agent?common_name=c.example#certificate", 403, "reference_denied", "policy"),
        ("vault:database/creds/app?ttl=1h#username", 403, "reference_denied", "policy"),
        ("vault:transit/sign/app?input=%25%25#signature", 422, "secret_unusable", "refuses what the reference"),
    ):
        answer = broker.resolve(reference)
        assert (answer.status, answer.json["code"]) == (status, code), answer.body
        assert words in answer.json["results"][0]["detail"]
    wait_until(lambda: all("bogus" not in lease["reference"] for lease in own_leases(broker)))


def test_a_role_that_is_not_there_is_missing(broker: RunningBroker, place: tuple[Sandbox, Store]) -> None:
    _, store = place
    store.ask("DELETE", "database/roles/app")
    try:
        give_back(broker)
        answer = broker.resolve(USER)
        assert (answer.status, answer.json["code"]) == (404, "secret_missing")
        assert "has no such role" in answer.json["results"][0]["detail"]
    finally:
        PostgreSQL.role(store, "app")
    # The refusal is remembered for a moment.
    wait_until(lambda: broker.resolve(USER).status == 200)


def test_transit_signs_and_verifies_by_parameters_that_policy_names(broker: RunningBroker) -> None:
    text = base64.b64encode(b"a longer text to sign").decode()
    answer = broker.resolve(
        f"vault:transit/sign/app?input={text}#signature", f"vault:transit/hmac/app?input={text}#hmac"
    )
    assert answer.status == 200, answer.body
    signature, hmac = (result["value"] for result in answer.json["results"])
    assert signature.startswith("vault:v1:")
    assert hmac.startswith("vault:v1:")
    good = broker.resolve(f"vault:transit/verify/app?input={text}&signature={quote(signature, safe='/:+=')}#valid")
    assert good.json["results"][0]["value"] is True, good.body
    assert good.json["results"][0]["lease"] is None


def test_whoever_holds_nothing_in_the_store_gets_no_other_engine(broker: RunningBroker) -> None:
    answer = broker.resolve("vault:cubbyhole/anything#key")
    assert (answer.status, answer.json["code"]) == (404, "secret_missing")


def test_the_page_for_operators_has_the_rules_that_these_tests_run_with() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "dynamic-credentials.md").read_text()
    for rule in (MINTER_RULES + LEASE_RULES + SEEING_RULES).strip().splitlines():
        assert rule in page
    assert "orphan=true renewable=true allowed_policies=broker-mints token_no_default_policy=true" in page
