"""The rules of strict YAML; the attacks are 46 to 48 of the list."""

from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import strict_yaml
from broker.errors import DocumentInvalidError


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def _both_readers_of_yaml(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_yaml, "_LOADER", getattr(yaml, request.param))


def refused(text: str | bytes, **limits: int) -> DocumentInvalidError:
    with pytest.raises(DocumentInvalidError) as caught:
        strict_yaml.read(text, what="the file", **limits)
    assert caught.value.detail.startswith("the file: ")
    return caught.value


@pytest.mark.parametrize(
    "scalar", ["no", "on", "010", "12:30", "1_000", "0x1F", "1e3", "2026-11-23", "~", "null", "=", "1.5", "'quoted'"]
)
def test_every_scalar_is_the_text_that_is_written(scalar: str) -> None:
    assert strict_yaml.read(f"key: {scalar}\n", what="the file").data == {"key": scalar.strip("'")}


def test_keys_that_yaml_takes_for_truth_values_are_text() -> None:
    assert strict_yaml.read("no: 1\non: 2\n", what="the file").data == {"no": "1", "on": "2"}


def test_mappings_lists_and_text_are_read() -> None:
    document = strict_yaml.read("a: {b: [c, 'd # e', \"f\"]}\ng: |\n  one\n  two\n", what="the file")
    assert document.data == {"a": {"b": ["c", "d # e", "f"]}, "g": "one\ntwo\n"}


def test_a_byte_order_mark_is_skipped() -> None:
    assert strict_yaml.read("\ufeffa: b", what="the file").data == {"a": "b"}


def test_places_count_from_one() -> None:
    document = strict_yaml.read("a:\n  - x\n  - bé: y\n", what="the file")
    assert document.place(("a", 0)) == (2, 5)
    assert document.place(("a", 1, "bé")) == (3, 9)
    assert document.key_place(("a", 1, "bé")) == (3, 5)


def test_the_place_of_what_is_missing_is_that_of_what_should_hold_it() -> None:
    document = strict_yaml.read("a:\n  b: c\n", what="the file")
    assert document.place(("a", "missing", 3)) == (2, 3)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "---\n...\n", "''"])
def test_an_empty_document_is_refused(text: str) -> None:
    assert "empty" in refused(text).detail


@pytest.mark.parametrize(
    ("text", "word", "place"),
    [
        ("a: &x 1", "anchor", (1, 4)),
        ("a: &x [*x]", "anchor", (1, 4)),
        ("a: 1\nb: *x", "alias", (2, 4)),
        ("a: !!python/object/apply:os.system [id]", "tag", (1, 4)),
        ("a: !!str 1", "tag", (1, 4)),
        ("a: ! 1", "tag", (1, 4)),
        ("a: 1\n---\nb: 2", "second document", (2, 1)),
        ("%YAML 1.1\n---\na: 1", "directive", (1, 1)),
        ("a: 1\nb: 2\na: 3", "twice", (3, 1)),
        ("a: {b: 1, 'b': 2}", "twice", (1, 11)),
        ("<<: {a: 1}", "merge key", (1, 1)),
        ("? [a]\n: b", "as a key", (1, 3)),
        ("? {a: b}\n: c", "as a key", (1, 3)),
        ("a: b: c", "no YAML", (1, 5)),
        ("a: \x00", "U+0000", (1, 4)),
        ("a:\n b: \x1b[31m", "U+001B", (2, 5)),
        ("a: \ud800", "U+D800", (1, 4)),
        (b"a:\n b: \xff", "UTF-8", (2, 5)),
        ("a: é\nb: *x", "alias", (2, 4)),
    ],
)
def test_what_could_surprise_is_refused_with_its_place(text: str | bytes, word: str, place: tuple[int, int]) -> None:
    error = refused(text)
    assert word in error.detail
    assert (error.line, error.column) == place


def test_half_of_a_surrogate_pair_is_refused() -> None:
    assert refused('a: "\\ud800"').line == 1


def test_twenty_levels_are_read_and_one_more_is_refused() -> None:
    assert strict_yaml.read("[" * 20 + "]" * 20, what="the file").data
    error = refused("[" * 21 + "]" * 21)
    assert (error.line, error.column) == (1, 21)


def test_a_hundred_thousand_open_brackets_are_refused_at_the_limit() -> None:
    assert refused("[" * 100_000).column == 21


def test_the_nine_level_alias_bomb_is_refused_at_its_first_anchor() -> None:
    levels = ["a0: &a0 [lol, lol]"]
    levels += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 9)]
    assert refused("\n".join(levels)).line == 1


@pytest.mark.parametrize("text", ["x" * 101, b"x" * 101, "é" * 51])
def test_more_bytes_than_the_limit_are_refused(text: str | bytes) -> None:
    assert "100 bytes" in refused(text, max_bytes=100).detail


def test_five_megabytes_are_refused_without_being_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_yaml, "_LOADER", None)
    assert "larger" in refused("a: b\n" * 1_000_000).detail


def test_more_nodes_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_yaml, "MAX_NODES", 10)
    assert "more than 10 nodes" in refused("[" + "a, " * 10 + "]").detail


@pytest.mark.parametrize(
    "text", ["no", "on", "yes", "y", "~", "null", "", "010", "12:30", "1_000", "2026-11-23", "1.5", "true", "=", "<<"]
)
def test_what_other_readers_take_for_something_else_is_told(text: str) -> None:
    assert strict_yaml.is_ambiguous(text)


@pytest.mark.parametrize("text", ["shipper", "the shipper reads", "nobody", "a1", "10 networks"])
def test_plain_words_are_no_surprise(text: str) -> None:
    assert not strict_yaml.is_ambiguous(text)


@settings(max_examples=150)
@given(st.one_of(st.text(), st.binary(), st.text(alphabet="a:[]{}-,&*!|>'\"%@?# \n\t\\x0")))
def fuzz(text: str | bytes) -> None:
    with suppress(DocumentInvalidError):
        strict_yaml.read(text, what="the file")


def test_no_input_raises_anything_but_the_declared_error() -> None:
    fuzz()


_KEYS = st.text(min_size=1).filter(lambda key: key != "<<")


@settings(max_examples=100)
@given(
    st.recursive(
        st.text(min_size=1),
        lambda inner: st.one_of(st.lists(inner, min_size=1), st.dictionaries(_KEYS, inner, min_size=1)),
        max_leaves=10,
    )
)
def written_and_read(data: object) -> None:
    text = yaml.dump(data, Dumper=_QuotingDumper)
    assert strict_yaml.read(text, what="the file").data == data


class _QuotingDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"')


_QuotingDumper.add_representer(str, _QuotingDumper.represent_str)


def test_text_that_is_written_quoted_is_read_back() -> None:
    written_and_read()
