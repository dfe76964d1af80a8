"""The index of paths: what it finds, and in how many steps."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.policy.trie import SegmentTrie

SEGMENTS = st.lists(st.sampled_from("abc"), max_size=6)
PATTERNS = st.lists(st.sampled_from(["a", "b", "c", "*", "**"]), max_size=5)


def matches(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    """Say what a pattern means, by its definition and without thought for time."""
    if not pattern:
        return not segments
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return any(matches(rest, segments[skip:]) for skip in range(len(segments) + 1))
    return bool(segments) and first in ("*", segments[0]) and matches(rest, segments[1:])


def trie_of(patterns: Sequence[Sequence[str]]) -> SegmentTrie[str]:
    trie: SegmentTrie[str] = SegmentTrie()
    for pattern in patterns:
        trie.put(pattern, "/".join(pattern))
    return trie


@settings(max_examples=200)
@given(st.lists(PATTERNS, max_size=8), SEGMENTS)
def finds_what_a_scan_finds(patterns: list[list[str]], segments: list[str]) -> None:
    expected = sorted({"/".join(pattern) for pattern in patterns if matches(pattern, segments)})
    assert sorted(trie_of(patterns).find(segments)) == expected


def test_the_trie_finds_what_a_linear_scan_finds() -> None:
    finds_what_a_scan_finds()


def test_get_returns_what_put_set_for_exactly_this_pattern() -> None:
    trie = trie_of([["a", "*"]])
    assert trie.get(["a", "*"]) == "a/*"
    assert trie.get(["a", "b"]) is None


class CountingText(str):
    """A segment that counts how often anything looks it up."""

    looked_up = 0
    __slots__ = ()

    def __hash__(self) -> int:
        CountingText.looked_up += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


def steps(trie: SegmentTrie[str], segments: Sequence[str]) -> int:
    CountingText.looked_up = 0
    list(trie.find([CountingText(segment) for segment in segments]))
    return CountingText.looked_up


def test_a_look_up_takes_as_many_steps_with_ten_patterns_as_with_a_hundred_thousand() -> None:
    patterns = [["secret", f"team{number}", "*"] for number in range(100_000)]
    assert steps(trie_of(patterns), ["secret", "team7", "key"]) == steps(
        trie_of(patterns[:10]), ["secret", "team7", "key"]
    )


def test_a_bomb_of_wildcards_takes_steps_in_proportion_to_the_path() -> None:
    trie = trie_of([["**", "x"] * 4 + ["**"] * 12 + ["y"]])
    assert steps(trie, ["x"] * 500) <= 500 * 25
    assert list(trie.find(["x"] * 500)) == []
