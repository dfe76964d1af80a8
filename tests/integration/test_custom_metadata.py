"""What the owner of a secret writes beside it in a real store, seen in answers, in the trail and in the metrics."""

from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.running import RunningBroker, audit, running
from tests.waiting import wait_until

API_KEY = "vault:secret/logflux#api_key"


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running() as it:
        yield it


def describe(broker: RunningBroker, **custom: str) -> None:
    """Set the metadata of the secret, and let the broker see it."""
    place = broker.place
    place.ask_store("POST", "secret/metadata/logflux", {"custom_metadata": custom})
    answer = broker.post("/v1/cache/invalidate", '{"everything": true}', agent="operator")
    assert answer.status == 200


def test_max_age_ends_both_clocks_and_owner_and_classification_are_on_record(broker: RunningBroker) -> None:
    describe(broker, owner="team-shipping", classification="restricted", max_age="90s", rotation_age="90d")
    [result] = broker.resolve(API_KEY).json["results"]
    read, fresh, stale = (datetime.fromisoformat(result[name]) for name in ("fetched_at", "fresh_until", "stale_until"))
    assert (fresh - read).total_seconds() == (stale - read).total_seconds() == 90
    found = audit(broker, "search", "--type", "resolve", "--json").stdout
    assert '"owner": "team-shipping"' in found or '"owner":"team-shipping"' in found
    assert "restricted" in found
    assert 'broker_secrets_overdue{provider="vault"} 0.0' in broker.operations("/metrics").body.decode()


def test_a_duration_that_is_none_is_in_the_log_and_the_policy_holds(broker: RunningBroker) -> None:
    describe(broker, max_age="soon")
    [result] = broker.resolve(API_KEY).json["results"]
    fresh = datetime.fromisoformat(result["fresh_until"]) - datetime.fromisoformat(result["fetched_at"])
    assert fresh.total_seconds() == 300
    assert "custom_metadata_unreadable" in broker.log


def test_a_secret_that_is_too_old_is_denied_until_it_is_rotated(broker: RunningBroker) -> None:
    place = broker.place
    policy = place.directory / "policy.yaml"
    policy.write_text(policy.read_text().replace("when: {", "when: { younger_than: 1s,"))
    wait_until(lambda: broker.resolve(API_KEY).status == 403)
    assert broker.resolve(API_KEY).json["results"][0]["code"] == "secret_too_old"
    foreign = broker.resolve(API_KEY, agent="operator").json["results"][0]
    assert foreign["code"] == "reference_denied"
    policy.write_text(policy.read_text().replace("younger_than: 1s", "younger_than: 1h"))
    wait_until(lambda: broker.resolve(API_KEY).status == 200)
