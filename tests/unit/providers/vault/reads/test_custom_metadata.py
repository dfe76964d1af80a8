"""What `custom_metadata` says, and what of it can't be read."""

import pytest

from broker.providers.vault.reads.custom_metadata import read_facts
from broker.secret import Facts


def test_the_known_names_are_read_and_others_are_left_alone() -> None:
    custom = {
        "owner": "team-a",
        "classification": "high",
        "max_age": "10m",
        "rotation_age": "90d",
        "overlap": "24h",
        "ticket": "OPS-1",
    }
    facts = Facts(owner="team-a", classification="high", max_age=600, rotation_age=7_776_000, overlap=86_400)
    assert read_facts(custom) == (facts, ())


@pytest.mark.parametrize("custom", [None, {}, [], "owner"])
def test_nothing_said_is_no_fact(custom: object) -> None:
    assert read_facts(custom) == (Facts(), ())


@pytest.mark.parametrize("text", ["", "10", "10 m", "-1m", "1w", "10m ", "400d", None, {"a": 1}])
def test_what_is_no_duration_is_named_and_left_out(text: object) -> None:
    facts, unreadable = read_facts({"owner": "team-a", "max_age": text, "overlap": "1h"})
    assert (facts.owner, facts.max_age, facts.overlap) == ("team-a", None, 3600)
    assert unreadable == ("max_age",)


def test_a_long_text_is_cut() -> None:
    assert len(read_facts({"owner": "x" * 9999})[0].owner) == 256
