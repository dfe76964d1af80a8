import itertools

import pytest

from broker.errors import MalformedPatternError, ScopeRefusedError
from broker.pattern import parse_pattern
from broker.reference import parse
from broker.scope import format_scope, parse_scope


def covers(pattern: str, reference: str) -> bool:
    return parse_pattern(pattern).covers_reference(parse(reference))


def touches(pattern: str, reference: str) -> bool:
    return parse_pattern(pattern).touches_reference(parse(reference))


def includes(wide: str, narrow: str) -> bool:
    return parse_pattern(wide).covers_pattern(parse_pattern(narrow))


def test_a_star_is_one_segment_and_two_are_any_number() -> None:
    assert covers("vault:secret/*#x", "vault:secret/a#x")
    assert not covers("vault:secret/*#x", "vault:secret/a/b#x")
    assert all(covers("file:/var/**", f"/var/{path}") for path in ("a", "a/b", "a/b/c"))
    assert covers("vault:**", "vault:a/b#c")
    assert covers("file:/a/**/z", "/a/z")


def test_a_prefix_of_a_name_is_another_name() -> None:
    assert not covers("vault:secret/log#*", "vault:secret/logflux#x")
    assert not covers("file:/var/**", "/variable/x")


def test_a_grant_on_a_thing_is_a_grant_on_its_parts() -> None:
    assert covers("vault:a/b", "vault:a/b#x")
    assert covers("vault:a/b#x", "vault:a/b#/x/y")
    assert not covers("vault:a/b#/x/y", "vault:a/b#x")


def test_every_field_is_not_the_whole() -> None:
    assert covers("vault:a/b#*", "vault:a/b#/x/y")
    assert not covers("vault:a/b#*", "vault:a/b")


def test_a_denied_field_is_touched_by_whatever_would_reveal_it() -> None:
    assert all(touches("vault:a/b#/x/y", f"vault:a/b{field}") for field in ("", "#x", "#/x/y", "#/x/y/z"))
    assert not touches("vault:a/b#/x/y", "vault:a/b#/x/z")


def test_a_version_is_covered_by_itself_and_touched_by_any() -> None:
    assert covers("vault:a/b?version=3", "vault:a/b?version=3")
    assert not covers("vault:a/b?version=3", "vault:a/b")
    assert touches("vault:a/b?version=3", "vault:a/b")
    assert not touches("vault:a/b?version=3", "vault:a/b?version=4")


def test_only_parameters_that_the_pattern_names_are_covered() -> None:
    assert covers("vault:pki/issue/a?common_name=*&ttl=1h", "vault:pki/issue/a?common_name=x.example#k")
    assert not covers("vault:pki/issue/a?common_name=*", "vault:pki/issue/a?common_name=x&ttl=1h#k")
    assert not covers("vault:pki/issue/a", "vault:pki/issue/a?ttl=1h#k")
    assert touches("vault:pki/issue/a", "vault:pki/issue/a?ttl=1h#k")


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("vault:a/**", "vault:a/*"),
        ("vault:a/**", "vault:a/**/x"),
        ("vault:a/*", "vault:a/b#c"),
        ("vault:**", "vault:a/b"),
        ("vault:a/**/*", "vault:a/*/**"),
        ("vault:a/b", "vault:a/b#*"),
        ("vault:a/b#*", "vault:a/b#/x/*"),
        ("env:*", "env:A"),
    ],
)
def test_a_wider_pattern_includes_a_narrower_one(wide: str, narrow: str) -> None:
    assert includes(wide, narrow)
    assert includes(narrow, narrow)


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ("vault:a/*", "vault:a/**"),
        ("vault:a/b#*", "vault:a/b"),
        ("vault:a/b#x", "vault:a/b#*"),
        ("vault:a/b?version=1", "vault:a/b"),
        ("vault:a/b", "vault:a/b?ttl=1h"),
        ("env:A", "env:*"),
        ("vault:a/b", "file:/a/b"),
        ("vault:a/*/c", "vault:a/*/*"),
    ],
)
def test_a_narrower_pattern_does_not_include_a_wider_one(narrow: str, wide: str) -> None:
    assert not includes(narrow, wide)


@pytest.mark.parametrize(
    "text",
    [
        "vault:a/b*",
        "vault:a/***",
        "env:A*",
        "vault:a/b#x*",
        "vault:a/b?decode=base64",
        "vault:**/**/**/**",
        "x",
        "env:**",
    ],
)
def test_a_malformed_pattern_is_refused(text: str) -> None:
    with pytest.raises(MalformedPatternError):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("text", "position"), [("vault:a/b*", 9), ("vault:a/**/***", 11), ("file:/a/x*y", 9), ("vault:a/b#/*/x*", 14)]
)
def test_a_misplaced_star_is_refused_at_its_place(text: str, position: int) -> None:
    with pytest.raises(MalformedPatternError) as raised:
        parse_pattern(text)
    assert raised.value.position == position


def test_inclusion_is_exact_for_all_small_patterns() -> None:
    words = [word for length in range(6) for word in itertools.product("abz", repeat=length)]
    shapes = [shape for length in range(4) for shape in itertools.product(("a", "b", "*", "**"), repeat=length)]
    matched = {}
    texts = {shape: "file:/" + "/".join(("x", *shape)) for shape in shapes}
    for shape, text in texts.items():
        pattern = parse_pattern(text)
        matched[shape] = {word for word in words if pattern.covers_reference(parse("/" + "/".join(("x", *word))))}
    for wide, narrow in itertools.product(shapes, repeat=2):
        assert includes(texts[wide], texts[narrow]) == (matched[narrow] <= matched[wide]), (wide, narrow)


@pytest.mark.parametrize("narrow", ["vault:**/a/a/*{stars}", "vault:a/**/a/*{stars}", "vault:**/a/**/a/*{stars}"])
def test_inclusion_of_entangled_patterns_stays_polynomial(narrow: str) -> None:
    # Each star doubles the subsets of places that a naive walk meets: 2 to the 60th of them.
    stars = "/*" * 60
    wide = parse_pattern("vault:**/a/*" + stars)
    assert wide.covers_pattern(wide)
    assert not wide.covers_pattern(parse_pattern(narrow.format(stars=stars) + "/b"))


def test_a_pattern_has_one_spelling() -> None:
    assert parse_pattern("${A}") == parse_pattern("env:A")
    assert parse_pattern("bao:a/*#/x").text == "vault:a/*#x"


def test_a_scope_is_printed_as_it_is_read() -> None:
    text = "vault:a/b%20c#x env:A vault:s/%C3%A9#*"
    assert format_scope(parse_scope(text)) == text


def test_repeats_in_a_scope_collapse() -> None:
    assert len(parse_scope("env:A env:A")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "env:A ",
        " env:A",
        "env%3AA",
        "vault:a%2Fb#x",
        "vault:a/%2e#x",
        "vault:a/%C3%a9#x",
        "vault:a/%c0%af#x",
        "env:A\tenv:B",
        "vault:a/%00#x",
        'vault:a/"#x',
        "${A}",
        "env:A " * 65 + "env:A",
        "vault:a/" + "b" * 4096,
    ],
)
def test_a_scope_that_is_not_in_its_one_spelling_is_refused(text: str) -> None:
    with pytest.raises(ScopeRefusedError):
        parse_scope(text)


def test_the_previous_version_is_covered_by_itself_and_by_any() -> None:
    assert covers("vault:a/b?version=previous", "vault:a/b?version=previous")
    assert covers("vault:a/b", "vault:a/b?version=previous")
    assert not covers("vault:a/b?version=previous", "vault:a/b")
    assert not covers("vault:a/b?version=previous", "vault:a/b?version=3")
    assert not covers("vault:a/b?version=3", "vault:a/b?version=previous")


def test_the_previous_version_may_have_any_number_and_is_never_the_current_one() -> None:
    assert touches("vault:a/b?version=3", "vault:a/b?version=previous")
    assert touches("vault:a/b?version=previous", "vault:a/b?version=3")
    assert touches("vault:a/b?version=previous", "vault:a/b?version=previous")
    assert touches("vault:a/b", "vault:a/b?version=previous")
    assert not touches("vault:a/b?version=previous", "vault:a/b")
