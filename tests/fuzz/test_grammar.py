"""What holds for every reference and every pattern, not only for those that somebody thought of."""

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import MalformedPatternError, MalformedReferenceError, ScopeRefusedError
from broker.pattern import Pattern, parse_pattern
from broker.reference import Reference, parse
from broker.scope import format_scope, parse_scope

NAMES = st.sampled_from(["a", "b", "cc", "é", "a b", "x-1"])
WILD = st.sampled_from(["a", "b", "cc", "*", "**"])
ODD = st.text(st.sampled_from("ab/#?=&%.$~*\\{}<>:\u00e9\u0301\ud800\x00 \u202e"), max_size=30)
ANYTHING = st.one_of(
    st.text(st.characters(codec=None), max_size=60),
    st.builds(
        lambda head, tail: head + tail, st.sampled_from(["vault:", "bao:", "env:", "file:/", "/", "$", "${"]), ODD
    ),
    st.integers(1000, 10_000).map(lambda size: "vault:a/" + "b" * size),
)
FIELDS = st.lists(NAMES, max_size=3)


@st.composite
def references(draw: st.DrawFn) -> str:
    path = "/".join(draw(st.lists(NAMES, min_size=2, max_size=4)))
    version = draw(
        st.sampled_from(
            ["", "?version=1", "?version=previous", "?version=2", "?decode=base64", "?x=a", "?x=a%26b&version=1"]
        )
    )
    field = draw(FIELDS)
    return f"vault:{path}{version}" + ("#/" + "/".join(field) if field else "")


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    path = "/".join(draw(st.lists(WILD, min_size=2, max_size=4).filter(lambda parts: parts.count("**") <= 2)))
    version = draw(st.sampled_from(["", "?version=1", "?version=previous", "?x=*", "?x=a"]))
    field = draw(st.lists(st.sampled_from(["a", "b", "*"]), max_size=2))
    return parse_pattern(f"vault:{path}{version}" + ("#/" + "/".join(field) if field else ""))


def parsed(text: str) -> Reference | None:
    try:
        return parse(text)
    except MalformedReferenceError as error:
        assert 0 <= error.position <= max(len(text), 1024)  # noqa: PT017  The position is the property.
        return None


@settings(max_examples=400, deadline=None)
@given(ANYTHING)
def test_no_text_raises_anything_but_the_declared_error(text: str) -> None:
    found = parsed(text)
    if found is not None:
        assert parse(found.text) == found
    try:
        pattern = parse_pattern(text)
    except MalformedPatternError:
        return
    assert parse_pattern(pattern.text) == pattern


@settings(max_examples=200, deadline=None)
@given(ANYTHING)
def test_no_scope_raises_anything_but_the_declared_error(text: str) -> None:
    try:
        found = parse_scope(text)
    except ScopeRefusedError:
        return
    assert parse_scope(format_scope(found)) == found


@settings(max_examples=200, deadline=None)
@given(references(), references())
def test_canonical_forms_are_unique(one: str, other: str) -> None:
    first, second = parse(one), parse(other)
    same = (first.source, first.pointer, first.decode) == (second.source, second.pointer, second.decode)
    assert same == (first.text == second.text)
    assert parse(first.text) == first


@settings(max_examples=300, deadline=None)
@given(patterns(), references())
def test_what_is_covered_is_touched(pattern: Pattern, text: str) -> None:
    reference = parse(text)
    if pattern.covers_reference(reference):
        assert pattern.touches_reference(reference)


@settings(max_examples=400, deadline=None)
@given(patterns(), patterns(), references())
def test_an_included_pattern_covers_nothing_more(wide: Pattern, narrow: Pattern, text: str) -> None:
    reference = parse(text)
    if wide.covers_pattern(narrow) and narrow.covers_reference(reference):
        assert wide.covers_reference(reference)
