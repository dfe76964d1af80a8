"""Certificates of the store's PKI are revoked there, whatever ends them: seen in the store, and after `kill -9`."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509

from broker.cli.sandbox import Sandbox
from tests.leasing import LEASE_RULES, MINTER_RULES, POLICY, SEEING_RULES, Store, leasing_sandbox
from tests.relays import Relay, relaying
from tests.running import Answer, RunningBroker, audit, serving
from tests.waiting import wait_until

RULES = """
path "pki/issue/leased" { capabilities = ["update"] }
path "pki/issue/unkept" { capabilities = ["update"] }
"""
# What docs/how-to/dynamic-credentials.md tells an operator to write; a test compares them.
LOOKING_RULES = """
path "pki/certs/detailed" { capabilities = ["list"] }
"""
OURS = LEASE_RULES + SEEING_RULES + RULES
CERTIFICATE = "vault:pki/issue/agent?common_name=a.example&ttl=1h#certificate"
ALLOWED = """
rules:
  - name: roles with other ways to keep certificates
    allow:
      - "vault:pki/issue/leased?common_name=a.example#*"
      - "vault:pki/issue/unkept?common_name=a.example#*"
    to: [shipper]
"""


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Sandbox, Store, Relay]]:
    """Return one store for all; each test looks at the certificates that it got itself."""
    settings = "leases: { overlap_seconds: 0.5 }\n"
    with (
        leasing_sandbox(None, settings=settings) as (sandbox, store),
        relaying(sandbox.store_address) as relay,
    ):
        small = {"allowed_domains": "a.example", "allow_bare_domains": True, "max_ttl": "1h", "key_type": "ec"}
        store.write("pki/roles/agent", small)
        store.write("pki/roles/leased", {**small, "generate_lease": True})
        store.write("pki/roles/unkept", {**small, "no_store": True})
        store.policy("minter", MINTER_RULES + RULES)
        store.policy("broker", store.rules("broker") + OURS)
        sandbox.settings_file.with_name("policy.yaml").write_text(POLICY.replace("\nrules:", ALLOWED))
        text = sandbox.settings_file.read_text()
        sandbox.settings_file.write_text(text.replace(sandbox.store_address, relay.address))
        yield sandbox, store, relay


@pytest.fixture(autouse=True)
def _forgetting(place: tuple[Sandbox, Store, Relay]) -> Iterator[None]:
    """Let each test begin with a broker that knows of no lease: what can't be revoked would be tried in the next."""
    yield
    for file in place[0].database.parent.glob("state.db*"):
        file.unlink()


def certificate(answer: Answer) -> str:
    """Return the serial number of the certificate in an answer, as the store writes it."""
    assert answer.status == 200, answer.body
    [result] = answer.json["results"]
    number = f"{x509.load_pem_x509_certificate(result['value'].encode()).serial_number:x}"
    return ":".join((number if len(number) % 2 == 0 else f"0{number}")[at : at + 2] for at in range(0, 40, 2)).rstrip(
        ":"
    )


def is_revoked(store: Store, serial: str) -> bool:
    return bool(store.ask("GET", f"pki/cert/{serial}")["data"]["revocation_time"])


def on_the_list(store: Store, serial: str) -> bool:
    pem = store.ask("GET", "pki/cert/crl")["data"]["certificate"]
    found = x509.load_pem_x509_crl(pem.encode()).get_revoked_certificate_by_serial_number(
        int(serial.replace(":", ""), 16)
    )
    return found is not None


def issued(store: Store) -> set[str]:
    return set(store.ask("GET", "pki/certs?list=true")["data"]["keys"])


def lease_of(answer: Answer) -> str:
    return str(answer.json["results"][0]["lease"]["id"])


def revoke(broker: RunningBroker, lease: str) -> Answer:
    return broker.send("DELETE", f"/v1/leases/{lease}", None, headers={})


def reference(role: str) -> str:
    return f"vault:pki/issue/{role}?common_name=a.example#certificate"


def test_on_request_at_the_stop_and_when_policy_names_the_identity_no_more(
    place: tuple[Sandbox, Store, Relay],
) -> None:
    sandbox, store, _ = place
    policy = sandbox.settings_file.with_name("policy.yaml")
    text = policy.read_text()
    with serving(sandbox) as broker:
        answer = broker.resolve(CERTIFICATE)
        asked = certificate(answer)
        assert not is_revoked(store, asked)
        assert revoke(broker, lease_of(answer)).status == 204
        assert is_revoked(store, asked)
        assert on_the_list(store, asked)

        disabled = certificate(broker.resolve(CERTIFICATE, agent="stranger"))
        policy.write_text(text.replace("to: [shipper, stranger]", "to: [shipper]"))
        wait_until(lambda: is_revoked(store, disabled))
        policy.write_text(text)

        leased = certificate(broker.resolve(reference("leased")))
        stopped = certificate(broker.resolve(CERTIFICATE))
        assert not is_revoked(store, leased)
        assert broker.terminate() == 0
    assert is_revoked(store, stopped)
    assert is_revoked(store, leased), "the lease of a role with generate_lease is revoked, and so is what it is of"


def test_what_was_replaced_after_a_crash_is_revoked_after_the_grace_time(
    place: tuple[Sandbox, Store, Relay],
) -> None:
    sandbox, store, _ = place
    with serving(sandbox) as broker:
        old = certificate(broker.resolve(CERTIFICATE))
        broker.child.kill()
    with serving(sandbox) as broker:
        new = certificate(broker.resolve(CERTIFICATE))
        assert new != old
        wait_until(lambda: is_revoked(store, old))
        assert not is_revoked(store, new)
        assert broker.terminate() == 0
    assert is_revoked(store, new)


def test_a_store_that_does_not_let_the_broker_revoke_is_told_of_in_answer_metric_and_trail_until_it_does(
    place: tuple[Sandbox, Store, Relay],
) -> None:
    sandbox, store, _ = place
    rules = store.rules("broker")
    with serving(sandbox) as broker:
        answer = broker.resolve(CERTIFICATE)
        serial, lease = certificate(answer), lease_of(answer)
        store.policy("broker", rules.replace('path "pki/revoke"', 'path "pki/nothing"'))
        try:
            told = revoke(broker, lease)
            assert (told.status, told.json["code"]) == (202, "upstream_denied")
            assert "update on pki/revoke" in told.json["detail"]
            assert not is_revoked(store, serial)
            metrics = broker.operations("/metrics").body.decode()
            assert 'broker_lease_events_total{event="revoke_denied",provider="vault"} 1.0' in metrics
            lines = audit(broker, "search", "--type", "lease", "--outcome", "failure", "--json").stdout.splitlines()
            events = [json.loads(line) for line in lines]
            # The trail is that of all tests here.
            [about] = [event for event in events if event["details"]["lease"] == lease]
            [refused] = about["references"]
            assert (about["reason"], refused["upstream_asked"]) == ("revoke_denied", "POST pki/revoke")
            assert refused["upstream_said"] == "403 permission denied"
            assert '"said":"403 permission denied"' in broker.log
            # It is handed out no longer all the same.
            assert certificate(broker.resolve(CERTIFICATE)) != serial
        finally:
            store.policy("broker", rules)
        wait_until(lambda: is_revoked(store, serial))
        assert broker.terminate() == 0


def test_a_certificate_that_the_store_does_not_keep_can_not_be_revoked_and_that_is_said(
    place: tuple[Sandbox, Store, Relay],
) -> None:
    sandbox, _, _ = place
    with serving(sandbox) as broker:
        told = revoke(broker, lease_of(broker.resolve(reference("unkept"))))
        assert (told.status, told.json["code"]) == (202, "upstream_denied")
        assert "no_store" in told.json["detail"]


def ask(broker: RunningBroker, text: str) -> int:
    """Return the status of the answer, 0 when the broker is killed meanwhile."""
    with suppress(OSError):
        return broker.resolve(text).status
    return 0


def killed(broker: RunningBroker) -> bool:
    return broker.child.handle.wait(timeout=20) == -9


@pytest.mark.parametrize("answered", [False, True])
def test_a_broker_killed_while_it_revokes_goes_on_after_its_start(
    place: tuple[Sandbox, Store, Relay], answered: bool
) -> None:
    sandbox, store, relay = place
    with serving(sandbox) as broker:
        answer = broker.resolve(CERTIFICATE)
        serial = certificate(answer)
        relay.trap("/v1/pki/revoke", broker.child.handle.kill, answered=answered)
        with suppress(OSError):
            revoke(broker, lease_of(answer))
        assert killed(broker)
    assert is_revoked(store, serial) is answered
    with serving(sandbox) as broker:
        wait_until(lambda: is_revoked(store, serial))
        assert broker.terminate() == 0


def test_a_broker_killed_while_it_stops_goes_on_after_its_start(place: tuple[Sandbox, Store, Relay]) -> None:
    sandbox, store, relay = place
    with serving(sandbox) as broker:
        serial = certificate(broker.resolve(CERTIFICATE))
        relay.trap("/v1/pki/revoke", broker.child.handle.kill, answered=False)
        broker.child.handle.terminate()
        assert killed(broker)
    assert not is_revoked(store, serial)
    with serving(sandbox) as broker:
        wait_until(lambda: is_revoked(store, serial))
        assert broker.terminate() == 0


@pytest.mark.parametrize("role", ["leased", "agent"])
def test_of_what_was_issued_in_the_moment_of_a_crash_nobody_has_the_key_and_with_a_lease_it_is_revoked_too(
    place: tuple[Sandbox, Store, Relay], role: str
) -> None:
    sandbox, store, relay = place
    before = issued(store)
    text = reference("leased") if role == "leased" else CERTIFICATE
    with serving(sandbox) as broker:
        relay.trap(f"/v1/pki/issue/{role}", broker.child.handle.kill, answered=True)
        # The key was in the answer that never came, and nowhere else.
        assert ask(broker, text) == 0
        assert killed(broker)
    [serial] = issued(store) - before
    assert not is_revoked(store, serial)
    with serving(sandbox) as broker:
        if role == "leased":
            wait_until(lambda: is_revoked(store, serial))
        assert ask(broker, text) == 200
        assert broker.terminate() == 0
    assert is_revoked(store, serial) is (role == "leased")


def test_where_the_mount_issues_to_this_broker_alone_what_was_issued_in_the_moment_of_a_crash_is_revoked(
    place: tuple[Sandbox, Store, Relay],
) -> None:
    sandbox, store, relay = place
    rules, text = store.rules("broker"), sandbox.settings_file.read_text()
    store.policy("broker", rules + LOOKING_RULES)
    role = "    lease_token_role: broker-leases\n"
    sandbox.settings_file.write_text(text.replace(role, f"{role}    own_pki_mounts: [pki]\n"))
    try:
        with serving(sandbox) as broker:
            kept = certificate(broker.resolve(CERTIFICATE, agent="stranger"))
            before = issued(store)
            relay.trap("/v1/pki/issue/agent", broker.child.handle.kill, answered=True)
            assert ask(broker, CERTIFICATE) == 0
            assert killed(broker)
        [serial] = issued(store) - before
        assert not is_revoked(store, serial)
        with serving(sandbox) as broker:
            wait_until(lambda: is_revoked(store, serial))
            assert not is_revoked(store, kept), "it has the same name, and somebody has it"
            assert ask(broker, CERTIFICATE) == 200
            assert broker.terminate() == 0
    finally:
        store.policy("broker", rules)
        sandbox.settings_file.write_text(text)


def test_a_certificate_that_was_issued_in_spite_of_a_parameter_that_nobody_knows_is_revoked(
    place: tuple[Sandbox, Store, Relay],
) -> None:
    sandbox, store, _ = place
    before = issued(store)
    with serving(sandbox) as broker:
        assert ask(broker, "vault:pki/issue/agent?common_name=a.example&bogus=1#certificate") == 422
        [serial] = issued(store) - before
        wait_until(lambda: is_revoked(store, serial))


def test_an_identity_in_a_crash_loop_costs_the_store_nothing_and_is_slowed_on_every_route(
    place: tuple[Sandbox, Store, Relay],
) -> None:
    sandbox, _, relay = place
    limits = {"LOGFLUX_LIMITS__IDENTITY_REQUESTS_PER_SECOND": "0.01", "LOGFLUX_LIMITS__IDENTITY_BURST": "20"}
    with serving(sandbox, environment=limits) as broker:
        before = relay.count("/v1/pki/issue/agent")
        assert len({certificate(broker.resolve(CERTIFICATE)) for _ in range(10)}) == 1
        assert relay.count("/v1/pki/issue/agent") == before + 1
        for _ in range(10):
            assert broker.send("GET", "/v1/leases", None, headers={}).status == 200
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        slowed = [
            broker.resolve(CERTIFICATE),
            broker.send("GET", "/v1/leases", None, headers={}),
            revoke(broker, "lease_nothing"),
            broker.post("/oauth2/token", "grant_type=client_credentials", headers=form),
            broker.post("/v1/watch", json.dumps({"references": [CERTIFICATE]})),
        ]
        assert [(answer.status, answer.json["code"]) for answer in slowed] == [(429, "rate_limited")] * len(slowed)
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in slowed)
        # Another identity is served.
        assert broker.resolve(CERTIFICATE, agent="stranger").status == 200
        assert broker.terminate() == 0


def test_the_page_for_operators_has_the_rule_to_look_for_certificates() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "dynamic-credentials.md").read_text()
    assert LOOKING_RULES.strip() in page
