"""A broker is killed at every step of a lease's life; then the store has no lease that the broker does not know."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from broker.cli.sandbox import Sandbox
from broker.leases.record import LeaseRecord
from broker.store.state import read_leases
from tests.leasing import PASSWORD, USER, Store, leasing_sandbox
from tests.postgres import PostgreSQL, postgres
from tests.relays import Relay, relaying
from tests.running import RunningBroker, serving
from tests.waiting import wait_until

__all__ = ["postgres"]


@pytest.fixture(scope="module")
def place(postgres: PostgreSQL) -> Iterator[tuple[Sandbox, Store, Relay]]:
    """Return one store for all cases: each begins without leases and ends without."""
    settings = "leases: { overlap_seconds: 2 }\n"
    with (
        leasing_sandbox(postgres, settings=settings, default_ttl="1h") as (sandbox, store),
        relaying(sandbox.store_address) as relay,
    ):
        text = sandbox.settings_file.read_text()
        sandbox.settings_file.write_text(text.replace(sandbox.store_address, relay.address))
        yield sandbox, store, relay


def known(sandbox: Sandbox) -> list[LeaseRecord]:
    return list(read_leases(sandbox.database.with_name("state.db")))


def names(records: list[LeaseRecord]) -> set[str]:
    return {record.handle.rpartition("/")[2] for record in records if record.handle}


def unknown(sandbox: Sandbox, store: Store) -> set[str]:
    return store.leases() - names(known(sandbox))


def killed(broker: RunningBroker) -> bool:
    return broker.child.handle.wait(timeout=20) == -9


def ask(broker: RunningBroker) -> int:
    """Return the status of the answer, 0 when the broker is killed meanwhile."""
    with suppress(OSError):
        return broker.resolve(USER, PASSWORD).status
    return 0


MINTING = [
    ("auth/token/create/", False),
    ("auth/token/create/", True),
    ("database/creds/app", False),
    ("database/creds/app", True),
    ("auth/token/renew-accessor", False),
    ("auth/token/renew-accessor", True),
]


@pytest.mark.parametrize(("step", "answered"), MINTING, ids=lambda value: str(value).strip("/").rpartition("/")[2])
def test_a_broker_killed_while_it_mints_leaves_nothing_that_it_does_not_know(
    place: tuple[Sandbox, Store, Relay], step: str, answered: bool
) -> None:
    sandbox, store, relay = place
    with serving(sandbox) as broker:
        # The mount is looked at with the same path, before anything is minted.
        relay.trap(f"/v1/{step}", broker.child.handle.kill, answered=answered)
        assert ask(broker) == 0
        assert killed(broker)
    if (step, answered) in MINTING[3:]:
        # It was minted, and its name was never written down.
        assert len(unknown(sandbox, store)) == 1
    with serving(sandbox) as broker:
        wait_until(lambda: unknown(sandbox, store) == set())
        wait_until(lambda: store.leases() == set())
        assert ask(broker) == 200
        assert store.leases() == names(known(sandbox))
        assert len(store.leases()) == 1
        assert broker.terminate() == 0
    assert store.leases() == set()


def test_after_a_crash_the_old_lease_ends_once_its_identity_has_another(
    place: tuple[Sandbox, Store, Relay], postgres: PostgreSQL
) -> None:
    sandbox, store, _ = place
    with serving(sandbox) as broker:
        old = [result["value"] for result in broker.resolve(USER, PASSWORD).json["results"]]
        broker.child.kill()
    with serving(sandbox) as broker:
        [record] = known(sandbox)
        assert (record.state, record.reason, record.due) == ("superseded", "restart", None)
        assert postgres.logs_in(*old)
        new = [result["value"] for result in broker.resolve(USER, PASSWORD).json["results"]]
        assert new != old
        assert len(store.leases()) == 2
        assert unknown(sandbox, store) == set()
        wait_until(lambda: len(store.leases()) == 1)
        assert not postgres.logs_in(*old)
        assert postgres.logs_in(*new)
        assert broker.terminate() == 0
    assert store.leases() == set()
    assert known(sandbox) == []


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("step", ["sys/leases/revoke", "auth/token/revoke-accessor"])
def test_a_broker_killed_while_it_revokes_goes_on_after_its_start(
    place: tuple[Sandbox, Store, Relay], step: str, answered: bool
) -> None:
    sandbox, store, relay = place
    with serving(sandbox) as broker:
        lease = broker.resolve(USER).json["results"][0]["lease"]["id"]
        relay.trap(f"/v1/{step}", broker.child.handle.kill, answered=answered)
        with suppress(OSError):
            broker.send("DELETE", f"/v1/leases/{lease}", None, headers={})
        assert killed(broker)
    assert [(record.id, record.state) for record in known(sandbox)] == [(lease, "revoking")]
    with serving(sandbox) as broker:
        wait_until(lambda: known(sandbox) == [])
        assert store.leases() == set()
        assert broker.terminate() == 0


@pytest.mark.parametrize("answered", [False, True])
def test_a_broker_killed_while_it_renews_knows_the_lease_after_its_start(
    place: tuple[Sandbox, Store, Relay], postgres: PostgreSQL, answered: bool
) -> None:
    sandbox, store, relay = place
    postgres.role(store, "app", default_ttl="3s")
    try:
        with serving(sandbox) as broker:
            relay.trap("/v1/sys/leases/renew", broker.child.handle.kill, answered=answered)
            assert ask(broker) == 200
            assert killed(broker)
        assert unknown(sandbox, store) == set()
        with serving(sandbox) as broker:
            assert ask(broker) == 200
            assert unknown(sandbox, store) == set()
            assert broker.terminate() == 0
    finally:
        postgres.role(store, "app")
    assert store.leases() == set()


def test_a_broker_killed_while_it_stops_goes_on_after_its_start(place: tuple[Sandbox, Store, Relay]) -> None:
    sandbox, store, relay = place
    with serving(sandbox) as broker:
        assert ask(broker) == 200
        relay.trap("/v1/sys/leases/revoke", broker.child.handle.kill, answered=False)
        broker.child.handle.terminate()
        assert killed(broker)
    assert len(store.leases()) == 1
    with serving(sandbox) as broker:
        wait_until(lambda: store.leases() == set())
        assert broker.terminate() == 0


def test_state_holds_no_value_and_no_one_else_reads_it(place: tuple[Sandbox, Store, Relay]) -> None:
    sandbox, _, _ = place
    with serving(sandbox) as broker:
        secrets = [result["value"].encode() for result in broker.resolve(USER, PASSWORD).json["results"]]
        files = list(Path(sandbox.database.parent).glob("state.db*"))
        assert any(file.name == "state.db-wal" for file in files)
        assert all(secret not in file.read_bytes() for file in files for secret in secrets)
        assert all(file.stat().st_mode & 0o077 == 0 for file in files)
        assert broker.terminate() == 0
