"""A certificate is revoked: what its holder got from the store ends there, also over `kill -9` and an upgrade."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from broker.cli.sandbox import SHIPPER, Sandbox
from broker.pki.authority import issue_certificate
from broker.pki.revocation import write_revocation_list
from broker.store.schema import STATE, schema_version
from tests.leasing import PASSWORD, USER, Store, leasing_sandbox
from tests.old_states import restore
from tests.postgres import PostgreSQL, postgres
from tests.relays import Relay, relaying
from tests.running import RunningBroker, audit, serving
from tests.waiting import wait_until

__all__ = ["postgres"]

CERTIFICATE = "vault:pki/issue/agent?common_name=a.example&ttl=1h#serial_number"


@dataclass(frozen=True)
class Place:
    """One store, what is between it and the broker, and the authority of the agents with its list."""

    sandbox: Sandbox
    store: Store
    relay: Relay

    def certify(self, *names: str) -> None:
        """Give the identity a new certificate under each name."""
        for name in names:
            for file in self.sandbox.certificate(name):
                file.unlink(missing_ok=True)
            issue_certificate(self.sandbox.authority.parent, name=name, usage="agent", spiffe=SHIPPER, days=1)

    def revoke(self, *names: str) -> None:
        """Publish the next revocation list."""
        revoked = [self.sandbox.certificate(name)[0] for name in names]
        write_revocation_list(self.sandbox.authority.parent, revoke=revoked, days=1)

    def is_revoked(self, serial: str) -> bool:
        return bool(self.store.ask("GET", f"pki/cert/{serial}")["data"]["revocation_time"])


@pytest.fixture(scope="module")
def place(postgres: PostgreSQL) -> Iterator[Place]:
    """Return one store for all: each test begins and ends without leases, with certificates of its own."""
    settings = "leases: { overlap_seconds: 0.5 }\n"
    with (
        leasing_sandbox(postgres, settings=settings) as (sandbox, store),
        relaying(sandbox.store_address) as relay,
    ):
        text = sandbox.settings_file.read_text().replace(sandbox.store_address, relay.address)
        client_ca = f"client_ca: {sandbox.authority}"
        assert client_ca in text
        listed = f"{client_ca}\n  client_crl: {sandbox.authority.with_suffix('.crl')}"
        sandbox.settings_file.write_text(text.replace(client_ca, listed))
        there = Place(sandbox, store, relay)
        there.revoke()
        yield there


def values(broker: RunningBroker, *references: str, agent: str) -> list[str]:
    answer = broker.resolve(*references, agent=agent)
    assert answer.status == 200, answer.body
    return [result["value"] for result in answer.json["results"]]


def reasons(broker: RunningBroker, leases: list[str]) -> list[str]:
    """Return why those of `leases` that are revoked were."""
    lines = audit(broker, "search", "--type", "lease", "--json").stdout.splitlines()
    events = [event for event in map(json.loads, lines) if event["details"].get("lease") in leases]
    return [event["references"][0]["reason"] for event in events if event["reason"] == "revoked"]


def test_what_a_revoked_certificate_got_ends_in_the_store_and_the_others_of_its_identity_get_another(
    place: Place, postgres: PostgreSQL
) -> None:
    place.certify("kept", "stolen")
    with serving(place.sandbox) as broker:
        theirs = values(broker, USER, PASSWORD, agent="stranger")
        leases = [result["lease"]["id"] for result in broker.resolve(USER, CERTIFICATE, agent="kept").json["results"]]
        both = values(broker, USER, PASSWORD, CERTIFICATE, agent="kept")
        assert values(broker, USER, PASSWORD, CERTIFICATE, agent="stolen") == both
        user, password, serial = both
        place.revoke("stolen")
        wait_until(lambda: len(place.store.leases()) == 1 and place.is_revoked(serial))
        assert not postgres.logs_in(user, password)
        assert postgres.logs_in(*theirs)
        new = values(broker, USER, PASSWORD, agent="kept")
        assert postgres.logs_in(*new)
        assert values(broker, USER, PASSWORD, agent="stranger") == theirs
        wait_until(lambda: reasons(broker, leases) == ["certificate_revoked"] * 2, "both are in the trail")
        assert broker.terminate() == 0
    assert place.store.leases() == set()


def test_what_was_revoked_while_the_broker_was_down_counts_after_its_start(place: Place, postgres: PostgreSQL) -> None:
    place.certify("kept", "stolen")
    with serving(place.sandbox) as broker:
        credential = values(broker, USER, PASSWORD, agent="kept")
        assert values(broker, USER, PASSWORD, agent="stolen") == credential
        # In the moment after its answer.
        broker.child.kill()
    place.revoke("stolen")
    assert postgres.logs_in(*credential)
    with serving(place.sandbox) as broker:
        wait_until(lambda: place.store.leases() == set())
        assert not postgres.logs_in(*credential)
        assert broker.terminate() == 0


@pytest.mark.parametrize("answered", [False, True])
def test_a_broker_killed_while_it_revokes_for_that_goes_on_after_its_start(place: Place, answered: bool) -> None:
    place.certify("stolen")
    with serving(place.sandbox) as broker:
        values(broker, USER, agent="stolen")
        place.relay.trap("/v1/sys/leases/revoke", broker.child.handle.kill, answered=answered)
        place.revoke("stolen")
        assert broker.child.handle.wait(timeout=60) == -9
    assert len(place.store.leases()) == (0 if answered else 1)
    with serving(place.sandbox) as broker:
        wait_until(lambda: place.store.leases() == set())
        assert broker.terminate() == 0


def test_a_lease_of_a_broker_with_an_older_state_is_known_and_ends_after_the_upgrade(place: Place) -> None:
    """It knows no certificate of it: what ends it is everything else that ends a lease."""
    state = place.sandbox.database.with_name("state.db")
    with serving(place.sandbox) as broker:
        values(broker, USER, agent="shipper")
        broker.child.kill()
    with closing(sqlite3.connect(state)) as connection:
        rows = connection.execute("SELECT * FROM lease").fetchall()
    for file in state.parent.glob("state.db*"):
        file.unlink()
    restore("state-0001", state)
    with closing(sqlite3.connect(state)) as connection, connection:
        connection.execute("DELETE FROM lease")
        connection.executemany(f"INSERT INTO lease VALUES ({', '.join('?' * 13)})", rows)
    with serving(place.sandbox) as broker:
        events = map(json.loads, broker.log.splitlines())
        [upgraded] = [line for line in events if line["event"] == "schema_upgraded"]
        assert (upgraded["database"], upgraded["before"]) == (str(state), 1)
        assert upgraded["after"] == schema_version(STATE)
        values(broker, USER, agent="shipper")
        wait_until(lambda: len(place.store.leases()) == 1)
        assert broker.terminate() == 0
    assert place.store.leases() == set()
