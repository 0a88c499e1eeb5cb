"""Comparisons of patterns, checked against fnmatch over all short texts."""

import fnmatch
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_modprobe.admin.policy.globs import (
    PatternIndex,
    PatternSet,
    is_literal,
    literal_prefix,
    matches_nothing,
    overlap,
)

COVERS = [
    # One pattern.
    (["a"], "a", "", True), (["a"], "ab", "", False), (["a*"], "ab*", "", True), (["ab*"], "a*", "", False),
    (["*"], "x[a-z]?*", "", True), (["?*"], "*", "", False), (["?*"], "a*", "", True), (["*a*"], "*b*", "", False),
    (["[a-c]"], "b", "", True), (["[a-c]"], "[b-d]", "", False), (["[!a]"], "[b-d]", "", True), (["[!a]"], "?", "", False),
    (["*_*"], "a_*", "", True), (["*_x"], "a_*", "", False), (["a*b"], "a*bb", "", True), (["a*bb"], "a*b", "", False),
    (["**"], "*", "", True), (["*?*"], "?*", "", True), (["[[]*"], "[[]a", "", True), (["[]]"], "[]a]", "", False),
    # Several patterns together.
    (["a*", "[!a]*"], "*", "", False), (["a*", "[!a]*"], "?*", "", True), (["a", "b"], "[ab]", "", True),
    (["a", "b"], "[a-c]", "", False), (["a*", "b*", "c*"], "[a-c]?", "", True), (["", "?*"], "*", "", True),
    # No pattern.
    ([], "a", "", False), ([], "*", "", False), ([], "[b-a]", "", True),
    # A character that never occurs.
    ([], "a-b", "-", True), (["a"], "a[-]", "-", True), (["[!-]"], "?", "-", True), (["[!-]"], "?", "", False),
    (["[ab]"], "[a-b-]", "-", True), (["[ab]"], "[a-b-]", "", False),
]  # fmt: skip


@pytest.mark.parametrize(("wide", "narrow", "without", "yes"), COVERS)
def test_covers(wide: list[str], narrow: str, without: str, yes: bool) -> None:
    assert PatternSet(wide, without).covers(narrow) is yes


OVERLAP = [
    ("a", "a", "", True), ("a", "b", "", False), ("a*", "*b", "", True), ("a*", "b*", "", False), ("a*", "?", "", True),
    ("a?", "a", "", False), ("*a", "*b", "", False), ("*a*", "*b*", "", True), ("[a-c]x", "[c-e]x", "", True),
    ("[ab]x", "[!ab]x", "", False), ("a?", "[!b]b", "", True), ("x-*", "x-*", "-", False), ("x*", "x-*", "-", False),
    ("x[-]", "x?", "-", False), ("x[!a]", "x[!b]", "-", True), ("x[-a]", "x[-b]", "-", False),
    ("x[-a]", "x[-b]", "", True), ("[b-a]", "*", "", False), ("net_pf_1?", "net_pf_*_type_*", "", False),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "without", "yes"), OVERLAP)
def test_overlap(one: str, other: str, without: str, yes: bool) -> None:
    assert overlap(one, other, without) is yes
    assert overlap(other, one, without) is yes


NOTHING = [
    ("", "", False), ("a", "", False), ("*", "", False), ("[a]", "", False), ("[b-a]", "", True), ("x[b-a]*", "", True),
    ("[!b-a]", "", False), ("a-b", "-", True), ("[-]", "-", True), ("[-a]", "-", False), ("[!-]", "-", False), ("a", "-", False),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "without", "yes"), NOTHING)
def test_matches_nothing(pattern: str, without: str, yes: bool) -> None:
    assert matches_nothing(pattern, without) is yes


@pytest.mark.parametrize(
    ("pattern", "literal", "begin"),
    [("", True, ""), ("a.b", True, "a.b"), ("a*", False, "a"), ("?a", False, ""), ("a[b]", False, "a"), ("]a", True, "]a")],
)  # fmt: skip
def test_literal_and_prefix(pattern: str, literal: bool, begin: str) -> None:
    assert (is_literal(pattern), literal_prefix(pattern)) == (literal, begin)


ALPHABET = "abz-"  # z stands for every character that no pattern here names
TEXTS = {
    without: ["".join(chars) for length in range(6) for chars in product(ALPHABET.replace(without, ""), repeat=length)]
    for without in ("", "-")
}
# A dash at the start or end of a bracket is literal.
patterns = st.lists(
    st.sampled_from(["a", "b", "-", "*", "*", "?", "[ab]", "[!a]", "[a-b]", "[-a]", "[!b-]", "[b-a]"]), max_size=3
).map("".join)
withouts = st.sampled_from(list(TEXTS))


def matched(pattern: str, without: str) -> set[str]:
    return set(fnmatch.filter(TEXTS[without], pattern))


@given(st.lists(patterns, max_size=2), patterns, withouts)
@settings(max_examples=300, deadline=None)
def test_covers_agrees_with_fnmatch(wide: list[str], narrow: str, without: str) -> None:
    left = matched(narrow, without).difference(*(matched(each, without) for each in wide))
    assert PatternSet(wide, without).covers(narrow) is not bool(left)


@given(patterns, patterns, withouts)
@settings(max_examples=300, deadline=None)
def test_overlap_and_matches_nothing_agree_with_fnmatch(one: str, other: str, without: str) -> None:
    assert overlap(one, other, without) is bool(matched(one, without) & matched(other, without))
    assert matches_nothing(one, without) is not bool(matched(one, without))


@given(st.lists(patterns, max_size=6), patterns, withouts)
@settings(deadline=None)
def test_an_index_finds_the_same_as_comparing_with_each(many: list[str], pattern: str, without: str) -> None:
    found = PatternIndex(many, without).meets(pattern)
    assert found is any(overlap(pattern, each, without) for each in many)


def test_a_comparison_above_the_bound_ends_and_claims_less() -> None:
    """The exact answers are the opposite: a pattern that looks thirteen characters back has 2**13 states."""
    back = "?" * 12
    assert PatternSet([f"*a{back}"]).covers(f"x*a{back}") is False
    assert overlap(f"*a{back}", f"*b{back}") is True


def test_a_comparison_below_the_bound_is_exact() -> None:
    back = "?" * 6
    assert PatternSet([f"*a{back}"]).covers(f"x*a{back}") is True
    assert overlap(f"*a{back}", f"*b{back}") is False
