import json
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.agent.answer import MalformedAnswerError, ResolveRefusedError, read_answers, read_refusal
from broker.errors import BrokerError

CANARY = "hunter2-canary"


def body(*results: object) -> bytes:
    return json.dumps({"results": results}).encode()


def ok(reference: str, value: object, encoding: str = "utf-8", **more: object) -> dict[str, object]:
    return {"reference": reference, "status": "ok", "value": value, "encoding": encoding, **more}


def revealed(answer: bytes, reference: str = "env:A") -> bytes:
    (found,) = read_answers(200, answer, asked=[reference])
    assert found.value is not None
    return found.value.reveal()


@pytest.mark.parametrize(
    ("value", "encoding", "expected"),
    [("é\n", "utf-8", "é\n".encode()), ("/wA=", "base64", b"\xff\x00"), ({"a": [1, None]}, "json", b'{"a":[1,null]}')],
)
def test_each_encoding_gives_its_bytes(value: object, encoding: str, expected: bytes) -> None:
    assert revealed(body(ok("env:A", value, encoding))) == expected


def test_numbers_of_a_json_value_keep_their_digits() -> None:
    number = b"[1.10,1e400,0.10000000000000000001," + b"9" * 5000 + b"]"
    answer = b'{"results":[{"reference":"env:A","status":"ok","encoding":"json","value":%s}]}' % number
    assert revealed(answer) == number


def test_a_stale_value_may_be_used_and_says_until_when() -> None:
    stale = {**ok("env:A", "v", version="3", stale_until="2026-01-01T00:00:00Z"), "status": "stale"}
    (answer,) = read_answers(200, body(stale), asked=["env:A"])
    assert answer.value is not None
    assert (answer.version, answer.stale_until) == ("3", "2026-01-01T00:00:00Z")


@pytest.mark.parametrize("status", ["denied", "missing", "unavailable", "invalid", "new-status"])
def test_no_other_status_has_a_value_even_when_one_is_sent(status: str) -> None:
    (answer,) = read_answers(200, body({**ok("env:A", CANARY), "status": status}), asked=["env:A"])
    assert answer.value is None


def test_an_answer_may_repeat_a_reference_in_another_spelling() -> None:
    assert revealed(body(ok("env:A", "v")), "${A}") == b"v"


@pytest.mark.parametrize(
    "results",
    [
        [],
        [ok("env:B", CANARY)],
        [ok("env:A", CANARY), ok("env:A", CANARY)],
        [{"status": "ok", "value": CANARY, "encoding": "utf-8"}],
    ],
)
def test_a_value_of_another_reference_is_never_used(results: list[object]) -> None:
    with pytest.raises(MalformedAnswerError):
        read_answers(200, body(*results), asked=["env:A"])


def test_answers_in_another_order_are_never_used() -> None:
    with pytest.raises(MalformedAnswerError):
        read_answers(200, body(ok("env:B", "b"), ok("env:A", "a")), asked=["env:A", "env:B"])


@pytest.mark.parametrize(
    "result",
    [
        ok("env:A", f"{CANARY}\ud800"),
        ok("env:A", CANARY, "base64"),
        ok("env:A", CANARY, "hex"),
        ok("env:A", [CANARY]),
        ok("env:A", {CANARY: "\ud800"}, "json"),
        {"reference": "env:A", "status": "ok", "encoding": CANARY},
        CANARY,
    ],
)
def test_a_value_in_a_wrong_form_is_refused_and_not_shown(result: object) -> None:
    with pytest.raises(MalformedAnswerError) as raised:
        read_answers(200, body(result), asked=["env:A"])
    assert CANARY not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"{}", b"\xff", b'{"results":{}}', b"[" * 100_000])
def test_what_is_no_broker_is_told_apart(answer: bytes) -> None:
    with pytest.raises(MalformedAnswerError):
        read_answers(200, answer, asked=["env:A"])


def test_a_problem_document_keeps_its_code_and_its_results() -> None:
    results = [{"reference": "env:A", "status": "denied"}]
    problem = json.dumps({"code": "reference_denied", "detail": "no", "results": results}).encode()
    with pytest.raises(ResolveRefusedError) as raised:
        read_answers(403, problem, asked=["env:A"])
    assert (raised.value.broker_code, raised.value.status, raised.value.detail) == ("reference_denied", 403, "no")
    assert raised.value.results == tuple(results)


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b'{"results": 7, "code": [], "detail": null}', b'{"results": [1]}']
)
def test_a_failure_without_a_problem_document_names_its_status(answer: bytes) -> None:
    refused = read_refusal(502, answer)
    assert (refused.broker_code, refused.results) == ("http_502", ())
    assert "502" in refused.detail


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["ok", "env:A", "utf-8", "json"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["results", "reference", "status", "value", "encoding", "detail", "x"]), inner, max_size=6
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.binary(max_size=40), JSON.map(lambda document: json.dumps(document).encode())),
    st.sampled_from([200, 403]),
)
def test_no_answer_raises_anything_but_a_declared_error(answer: bytes, status: int) -> None:
    try:
        found = read_answers(status, answer, asked=["env:A"])
    except BrokerError:
        return
    assert len(found) == 1


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_no_value_raises_anything_but_a_declared_error(value: object) -> None:
    for encoding in ("utf-8", "json", "base64"):
        try:
            read_answers(200, body(ok("env:A", value, encoding)), asked=["env:A"])
        except MalformedAnswerError:
            continue
