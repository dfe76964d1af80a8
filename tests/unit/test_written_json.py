"""JSON that keeps its numbers: what is read is spelled as it was written."""

import pytest

from broker import written_json
from broker.written_json import WrittenNumber


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1.10,"b":[1e2,-0,1E400,{"c":3.14159265358979323846264338}],"d":null,"e":true,"f":"1.10"}',
        '{"a":12345678901234567890,"b":0.1,"c":1e+21,"d":-7}',
        "1" * 5000,
        '{"with \\"quotes\\"":1.0}',
        '"süß"',
    ],
)
def test_what_is_read_is_spelled_as_it_was_written(text: str) -> None:
    assert written_json.spell(written_json.read(text.encode())) == text


def test_a_number_that_python_writes_in_the_same_way_is_one_of_its_own() -> None:
    assert written_json.read(b'[1,1.5,"1.50"]') == [1, 1.5, "1.50"]
    assert written_json.read(b"1.50") == WrittenNumber("1.50")
    assert float(written_json.read(b"1.50")) == 1.5


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[1,]", b"1 2"])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        written_json.read(text)


@pytest.mark.parametrize("node", [float("nan"), [WrittenNumber("1.0"), float("inf")]])
def test_what_is_no_number_of_json_is_not_spelled(node: object) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        written_json.spell(node)
