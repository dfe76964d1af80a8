import sys
import unicodedata

import pytest

from broker.errors import MalformedReferenceError
from broker.reference import Reference, Source, parse


def position(text: str) -> int:
    with pytest.raises(MalformedReferenceError) as raised:
        parse(text)
    return raised.value.position


def detail(text: str) -> str:
    with pytest.raises(MalformedReferenceError) as raised:
        parse(text)
    return raised.value.detail


@pytest.mark.parametrize("text", ["${LOGFLUX_PAT}", "$LOGFLUX_PAT", "$<LOGFLUX_PAT>", "env:LOGFLUX_PAT"])
def test_the_four_spellings_of_a_variable_are_one_reference(text: str) -> None:
    assert parse(text) == Reference(Source("env", "LOGFLUX_PAT"), (), None, "env:LOGFLUX_PAT")


@pytest.mark.parametrize("text", ["/var/secrets/a b/key", "file:/var/secrets/a b/key"])
def test_the_two_spellings_of_a_file_are_one_reference(text: str) -> None:
    assert parse(text).text == "file:/var/secrets/a b/key"
    assert parse(text).source.segments == ("var", "secrets", "a b", "key")


@pytest.mark.parametrize(
    "text", ["vault:secret/logflux#api_key", "bao:secret/logflux#api_key", "vault:secret/logflux#/api_key"]
)
def test_the_spellings_of_a_secret_are_one_reference(text: str) -> None:
    assert parse(text) == Reference(
        Source("vault", "secret/logflux"), ("api_key",), None, "vault:secret/logflux#api_key"
    )


def test_no_field_is_the_whole_secret() -> None:
    assert parse("vault:a/b").pointer == ()


def test_a_json_pointer_is_decoded_once() -> None:
    assert parse("vault:a/b#/x~1y/~01").pointer == ("x/y", "~1")


def test_a_plain_field_that_looks_like_a_pointer_stays_a_pointer() -> None:
    assert parse("vault:a/b#/~1x").text == "vault:a/b#/~1x"


def test_the_query_is_sorted_and_the_version_is_a_number() -> None:
    found = parse("vault:pki/issue/a?version=3&decode=base64&common_name=a.example#certificate")
    assert found.text == "vault:pki/issue/a?common_name=a.example&decode=base64&version=3#certificate"
    assert found.source == Source("vault", "pki/issue/a", 3, (("common_name", "a.example"),))
    assert found.decode == "base64"


def test_a_query_value_has_one_encoding() -> None:
    assert dict(parse("vault:a/b?x=a%26b").source.parameters) == {"x": "a&b"}
    for text in ("vault:a/b?x=%61", "vault:a/b?x=a%2fb", "vault:a/b?x=%zz", "vault:a/b?x=%ff", "vault:a/b?x=%00"):
        assert position(text) == 12


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vault:a/../b", 9),
        ("vault:a/./b", 8),
        ("vault:a//b", 8),
        ("vault:a/b/", 10),
        ("vault:/a/b", 6),
        ("vault:a/b.", 9),
        ("vault:a/b%2Fc", 9),
        ("vault:a/b%2e", 9),
        ("vault:a\\b", 7),
        ("vault:a/b\x00", 9),
        ("vault:a/b\n", 9),
        ("vault:a/b\x7f", 9),
        ("vault:a/b\u2028", 9),
        ("vault:a/b\u202e", 9),
        ("vault:a/b\u200d", 9),
        ("vault:a/b\ud800", 9),
        ("vault:a/b\u00a0", 9),
        ("vault:a/ b", 8),
        ("vault:a/b #c", 8),
        ("vault:a/e\u0301", 8),
        ("vault:a/\u00e9 x\u0315\u0300y", 10),
        ("vault:a/\u212b", 8),
        ("vault:a/b\u1100\u1161", 9),
        ("vault:a/*", 8),
        ("vault:a/b#*", 10),
        ("vault:a/b#", 9),
        ("vault:a/b#c#d", 11),
        ("vault:a/b#c?version=1", 11),
        ("vault:a/b#/", 11),
        ("vault:a/b#/x~2", 11),
        ("vault:a/b?", 10),
        ("vault:a/b?version=1&version=1", 20),
        ("vault:a/b?version=01", 10),
        ("vault:a/b?version=-1", 10),
        ("vault:a/b?version=1e3", 10),
        ("vault:a/b?version=0", 10),
        ("vault:a/b?version=PREVIOUS", 10),
        ("vault:a/b?version=previous1", 10),
        ("vault:a/b?version=latest", 10),
        ("vault:a/b?decode=hex", 10),
        ("vault:a/b?X=1", 10),
        ("vault:a", 6),
        ("env:A#b", 5),
        ("env:A?version=1", 6),
        ("file:/a#b", 7),
        ("file:a/b", 5),
        ("/", 1),
        ("/a/..data/key", 3),
        ("file:/..1/key", 6),
        ("file:/a/..", 8),
        ("//a", 1),
        ("${a}", 2),
        ("${A=B}", 2),
        ("${A B}", 2),
        ("${1A}", 2),
        ("${}", 2),
        ("${A}x", 0),
        ("$", 0),
        ("${A", 0),
        ("${A\n}", 3),
        ("${A?decode=base64}", 3),
        ("$A?decode=base64", 2),
        ("$<A?decode=base64>", 3),
        ("${A#b}", 3),
        ("vault:a/b?x=%3D", 12),
        (" vault:a/b", 0),
        ("vault:a/b ", 8),
        ("vault:a/b#c ", 10),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_at_its_place(text: str, expected: int) -> None:
    assert position(text) == expected


@pytest.mark.parametrize(
    "text", ["", "word", "LOGFLUX_PAT", "https://x.example/y", "vault://a/b", "s3:a/b", "Vault:a/b", "C:/x"]
)
def test_what_is_no_reference_is_told_what_the_three_kinds_look_like(text: str) -> None:
    assert all(kind in detail(text) for kind in ("${NAME}", "/abs/path", "vault:mount/path#field"))


def test_a_windows_path_is_told_what_the_three_kinds_look_like() -> None:
    assert "/abs/path" in detail("C:\\secrets\\key")


def test_no_error_repeats_what_was_written() -> None:
    for text in (
        "hunter2hunter2",
        "vault:hunter2hunter2",
        "${hunter2hunter2}",
        "vault:a/b?hunter2hunter2",
        "vault:a/b?hunter2hunter2=1&hunter2hunter2=2",
        "env:A?hunter2hunter2=1",
    ):
        assert "hunter2" not in detail(text)


def test_a_query_value_may_hold_an_equals_sign() -> None:
    assert parse("vault:a/b?x=a=b").source.parameters == (("x", "a=b"),)


def test_a_variable_of_the_environment_may_be_decoded() -> None:
    assert parse("env:A?decode=base64").decode == "base64"


def test_a_reference_has_1024_characters_at_most() -> None:
    fits = "vault:a/" + "b" * 1016
    assert parse(fits).text == fits
    assert position(fits + "b") == 1024
    # A shorter spelling does not get a longer canonical form past the limit.
    assert position("/" + "b" * 1020) == 0


def test_full_width_and_cyrillic_look_alikes_are_other_names() -> None:
    assert parse("vault:a/\u0430").source != parse("vault:a/a").source
    assert parse("vault:a/b\uff0fc").source.segments == ("a", "b\uff0fc")


def test_the_previous_version_has_one_spelling() -> None:
    found = parse("bao:a/b?version=previous&decode=base64#c")
    assert found.source.version == "previous"
    assert found.text == "vault:a/b?decode=base64&version=previous#c"
    assert parse(found.text) == found


def test_marks_in_the_wrong_order_are_found_without_putting_them_in_order() -> None:
    def normalize(_form: str, _text: str) -> str:
        raise AssertionError("this takes as long as the square of the length")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unicodedata.normalize", normalize)
        found = position("vault:a/b" + "\u0315" * 500 + "\u0300" * 500)
    assert found == 8


def test_every_invisible_character_of_unicode_is_refused_as_one_and_no_other_is() -> None:
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
    # All of the first planes, where the odd ones are, and some of the rest.
    for code in (*range(0x3100), *range(0x3100, sys.maxunicode + 1, 97)):
        character = chr(code)
        try:
            parse(f"vault:a/b{character}b")
            said = ""
        except MalformedReferenceError as error:
            said = error.detail
        assert ("is an invisible" in said) == (unicodedata.category(character) in hidden and code != ord(" ")), code
