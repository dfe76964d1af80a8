"""The canonical form of an event, and the cleaning of text from outside."""

import json
import unicodedata

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.audit.event import (
    MAX_REFERENCE_CHARACTERS,
    AuditEvent,
    EventKind,
    Outcome,
    ReferenceRecord,
    canonical,
    rfc3339,
)
from broker.escape import CUT, MAX_TEXT_CHARACTERS, clean

ANY_TEXT = st.text(alphabet=st.characters(), max_size=40)


def body_of(event: AuditEvent) -> bytes:
    return canonical(event, trail_id="ab" * 16, seq=7, prev="cd" * 32, time=rfc3339(1_700_000_000_123))


@settings(max_examples=150, deadline=None)
@given(identity=ANY_TEXT, reference=ANY_TEXT, reason=ANY_TEXT, number=st.integers())
def test_the_form_is_rfc_8785_whatever_the_text(identity: str, reference: str, reason: str, number: int) -> None:
    event = AuditEvent(
        kind=EventKind.RESOLVE,
        outcome=Outcome.FAILURE,
        identity=identity,
        references=(ReferenceRecord(reference=reference, status="invalid", reason=reason),),
        details={"number": number, "text": reason},
    )
    body = body_of(event)
    assert body == rfc8785.dumps(json.loads(body))


@settings(max_examples=150, deadline=None)
@given(ANY_TEXT)
def test_no_text_from_outside_can_move_hide_or_break_a_line(text: str) -> None:
    line = body_of(AuditEvent(kind=EventKind.HANDSHAKE, outcome=Outcome.FAILURE, identity=text)).decode("utf-8")
    assert len(line.splitlines()) == 1
    assert not [one for one in line if unicodedata.category(one) in {"Cc", "Cs", "Zl", "Zp"}]
    assert not set(line) & set("\u200b\u200e\u200f\u202a\u202e\u2066\u2069\ufeff")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\u000ab"),
        ("\x1b[2J", r"\u001b[2J"),
        ("\x7f", r"\u007f"),
        ("\x9b31m", r"\u009b31m"),
        ("\u2028", r"\u2028"),
        ("user\u202etxt", r"user\u202etxt"),
        ("\ud800", r"\ud800"),
        ("a\u200bb", r"a\u200bb"),
        ("Zürich 東京", "Zürich 東京"),
        ('plain "text" \\', 'plain "text" \\'),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_long_text_is_cut_and_the_cut_is_marked() -> None:
    assert clean("a" * 5000) == "a" * (MAX_TEXT_CHARACTERS - 1) + CUT
    assert clean("a" * MAX_TEXT_CHARACTERS) == "a" * MAX_TEXT_CHARACTERS
    event = AuditEvent(
        kind=EventKind.RESOLVE,
        outcome=Outcome.FAILURE,
        references=(ReferenceRecord(reference="x" * 100_000, status="invalid"),),
    )
    assert len(json.loads(body_of(event))["references"][0]["reference"]) == MAX_REFERENCE_CHARACTERS


def test_the_record_can_be_placed_by_its_own_text() -> None:
    body = json.loads(body_of(AuditEvent(kind=EventKind.START, outcome=Outcome.SUCCESS)))
    assert body == {
        "kind": "start",
        "outcome": "success",
        "prev": "cd" * 32,
        "seq": 7,
        "time": "2023-11-14T22:13:20.123Z",
        "trail_id": "ab" * 16,
    }


def test_times_have_a_fixed_number_of_digits() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_700_000_000_005) == "2023-11-14T22:13:20.005Z"
