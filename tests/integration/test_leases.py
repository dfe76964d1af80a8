"""Database credentials and certificates out of a whole broker, counted in the store and in PostgreSQL."""

from collections.abc import Iterator
from typing import Any

import pytest

from broker.cli.sandbox import Sandbox
from tests.leasing import PASSWORD, USER, Store, leasing_sandbox
from tests.postgres import PostgreSQL, postgres
from tests.running import RunningBroker, serving

__all__ = ["postgres"]


@pytest.fixture
def place(postgres: PostgreSQL) -> Iterator[tuple[Sandbox, Store]]:
    with leasing_sandbox(postgres) as it:
        yield it


def credential(broker: RunningBroker, agent: str = "shipper") -> tuple[str, str, dict[str, Any]]:
    answer = broker.resolve(USER, PASSWORD, agent=agent)
    assert answer.status == 200, answer.body
    user, password = answer.json["results"]
    assert user["lease"] == password["lease"]
    return user["value"], password["value"], user["lease"]


def test_both_fields_of_a_request_come_from_one_lease_that_opens_the_database(
    place: tuple[Sandbox, Store], postgres: PostgreSQL
) -> None:
    sandbox, store = place
    with serving(sandbox) as broker:
        user, password, lease = credential(broker)
        assert postgres.logs_in(user, password)
        assert lease["id"].startswith("lease_")
        assert lease["renewable"] is True
        assert credential(broker) == (user, password, lease)
        other = credential(broker, agent="stranger")
        assert other[0] != user
        assert len(store.leases()) == 2
        assert not any(handle in answer for handle in store.leases() for answer in (lease["id"], other[2]["id"]))
        assert broker.terminate() == 0
    assert store.leases() == set()
    assert not postgres.logs_in(user, password)
