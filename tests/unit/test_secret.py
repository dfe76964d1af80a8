import copy
import json
import pickle

import pytest

from broker.errors import MissingPart, SecretMissingError, SecretUnusableError
from broker.secret import Encoding, Reading, SecretDocument, SecretValue

HIDDEN = "correct horse battery staple"


def value() -> SecretValue:
    return SecretValue(HIDDEN.encode(), encoding=Encoding.TEXT)


def document() -> SecretDocument:
    fields = {"api_key": HIDDEN, "port": 12345678901234567890, "list": [{"a": HIDDEN}], "a/b": "slash", "empty": ""}
    return SecretDocument.of_fields(fields, size=100)


@pytest.mark.parametrize("secret", [value(), document(), Reading(document=document(), version="1")])
def test_nothing_that_prints_an_object_shows_it(secret: object) -> None:
    assert all(HIDDEN not in text for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>5}", ascii(secret)))


@pytest.mark.parametrize("secret", [value(), document()])
@pytest.mark.parametrize("escape", [json.dumps, pickle.dumps, copy.copy, copy.deepcopy, len, list, vars])
def test_nothing_that_copies_or_serialises_an_object_takes_it(secret: object, escape: object) -> None:
    with pytest.raises(TypeError):
        escape(secret)  # type: ignore[operator]


def test_a_value_is_no_key_of_a_table() -> None:
    with pytest.raises(TypeError):
        hash(value())


def test_values_compare_by_content() -> None:
    assert value() == value()
    assert value() != SecretValue(b"other", encoding=Encoding.TEXT)
    assert value() != HIDDEN


def test_text_is_text_and_bytes_are_base64() -> None:
    assert SecretValue.from_bytes("süß".encode()).encoding is Encoding.TEXT
    assert SecretValue.from_bytes(b"\xff\x00").encoding is Encoding.BASE64


def test_a_string_field_is_its_text_and_a_number_is_written_as_the_source_wrote_it() -> None:
    assert document().select(("api_key",)).reveal() == HIDDEN.encode()
    number = document().select(("port",))
    assert (number.reveal(), number.encoding) == (b"12345678901234567890", Encoding.JSON)


def test_a_pointer_walks_objects_and_arrays() -> None:
    assert document().select(("list", "0", "a")).reveal() == HIDDEN.encode()
    assert document().select(("a/b",)).reveal() == b"slash"


def test_the_empty_pointer_is_the_whole() -> None:
    whole = document().select(())
    assert whole.encoding is Encoding.JSON
    assert json.loads(whole.reveal())["api_key"] == HIDDEN
    assert SecretDocument.of_bytes(b"\xff").select(()).encoding is Encoding.BASE64


def nested(*, levels: int, leaf: str) -> SecretDocument:
    root: dict[str, object] = {"a": leaf}
    for _ in range(levels - 1):
        root = {"a": root}
    return SecretDocument.of_fields(root, size=len(leaf))


def test_fields_that_lie_in_each_other_are_kept_up_to_twice_the_document_and_all_can_be_had() -> None:
    document = nested(levels=50, leaf="x" * 100_000)
    sizes = [document.select(("a",) * depth).size for depth in range(51)]
    assert min(sizes) == 100_000
    assert [depth for depth in range(51) if document.keeps(("a",) * depth)] == [0, 1]
    assert document.select(("a",) * 50).reveal() == b"x" * 100_000


def test_every_field_of_a_flat_document_is_kept_and_the_whole_too() -> None:
    fields = {f"field-{number}": "x" * 1000 for number in range(100)}
    document = SecretDocument.of_fields(fields, size=100_000)
    pointers = [(), *((name,) for name in fields)]
    first = [document.select(pointer) for pointer in pointers]
    assert all(document.select(pointer) is value for pointer, value in zip(pointers, first, strict=True))


@pytest.mark.parametrize("pointer", [("nope",), ("list", "1"), ("list", "00"), ("list", "-1"), ("api_key", "0")])
def test_a_missing_field_says_so_without_the_value(pointer: tuple[str, ...]) -> None:
    with pytest.raises(SecretMissingError) as raised:
        document().select(pointer)
    assert raised.value.part is MissingPart.FIELD
    assert HIDDEN not in str(raised.value)


def test_a_lone_surrogate_is_unusable_and_not_a_crash() -> None:
    broken = SecretDocument.of_fields({"a": "\ud800"}, size=1)
    with pytest.raises(SecretUnusableError):
        broken.select(("a",))
    with pytest.raises(SecretUnusableError):
        broken.select(())
