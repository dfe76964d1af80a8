"""Strict JSON: everything that a lenient parser would wave through."""

import time

import pytest
from pydantic import BaseModel, ConfigDict, Field

from broker.strict_json import MAX_DEPTH
from broker.web.body import model_of, parse_json
from broker.web.problems import HttpRefusedError


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


BAD = {
    "empty": b"",
    "spaces": b" " * 100,
    "a word": b"hello",
    "cut": b'{"a": [1',
    "trailing text": b"{} {}",
    "trailing comma": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "duplicate keys": b'{"a": 1, "a": 2}',
    "duplicate keys by escape": b'{"a": 1, "\\u0061": 2}',
    "duplicate keys deep": b'[{"b": {"a": 1, "a": 2}}]',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "1e999": b'{"a": 1e999}',
    "5000 digits": b"1" * 5000,
    "17 levels": nested(MAX_DEPTH + 1),
    "10^5 levels": nested(100_000),
    "10^5 open objects": b'{"a":' * 100_000,
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-16 without BOM": '{"a": 1}'.encode("utf-16-le"),
    "UTF-32": '{"a": 1}'.encode("utf-32"),
    "overlong UTF-8": b'{"a": "\xc0\xaf"}',
    "broken UTF-8": b'{"a": "\xff"}',
    "control character": b'{"a": "\n"}',
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
def test_what_is_not_strict_json_is_refused(raw: bytes) -> None:
    with pytest.raises(HttpRefusedError) as refused:
        parse_json(raw)
    assert refused.value.code == "body_not_json"


@pytest.mark.parametrize(
    ("raw", "meaning"),
    [
        (b'{"a": [1, 2.5, "\\u00e9", null, true]}', {"a": [1, 2.5, "é", None, True]}),
        (b'{"a": "[[[[[[[[[[[[[[[[[[[[[[[[", "b": "\\"{{{{{{{{{{{{{{{{{{{{"}', {"a": "[" * 24, "b": '"' + "{" * 20}),
        (nested(2), [[]]),
    ],
)
def test_strict_json_is_read(raw: bytes, meaning: object) -> None:
    assert parse_json(raw) == meaning


def test_sixteen_levels_are_accepted_also_many_times() -> None:
    assert parse_json(b"[" + b",".join([nested(MAX_DEPTH - 1)] * 50) + b"]")


@pytest.mark.parametrize("raw", [b'"' + b'\\"' * 131_000, b'["' * 131_000, b'"\\' * 131_000 + b"[" * 17], ids=range(3))
def test_the_depth_scan_is_linear_on_hostile_quotes(raw: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(HttpRefusedError):
        parse_json(raw)
    # A quadratic scan takes minutes.
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("raw", [b'{"canary-6f1b": NaN}', b'{"canary-6f1b": 1, "canary-6f1b": 2}', b"canary-6f1b"])
def test_no_error_repeats_what_was_sent(raw: bytes) -> None:
    with pytest.raises(HttpRefusedError) as refused:
        parse_json(raw)
    assert "canary" not in refused.value.detail
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    references: list[str]
    versions: dict[str, int] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        (b'{"references": ["a", 2]}', "references.1: Input should be a valid string"),
        (b'{"references": [], "versions": {"canary-6f1b": "x"}}', "versions.*: Input should be a valid integer"),
        (b'{"references": [], "canary-6f1b": 1}', "a member is not known"),
        (b'["canary-6f1b"]', "the body: Input should be a valid dictionary or instance of Asked"),
    ],
)
def test_a_fault_names_the_field_and_no_name_that_was_sent(raw: bytes, detail: str) -> None:
    with pytest.raises(HttpRefusedError) as refused:
        model_of(raw, Asked)
    assert (refused.value.code, refused.value.detail) == ("request_invalid", detail)
