"""A printed policy parses to the same rows, and a proposed rule parses and allows the request."""

from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_modprobe.callers.kernel_args import parse
from safe_modprobe.capability import NAMES, Capability
from safe_modprobe.decide import decide
from safe_modprobe.model import Action, Caller, CallSite, Mark, Mode, Origin, Policy, Rule, Settings, Source
from safe_modprobe.policy.files import read_policy
from safe_modprobe.policy.schema import build
from safe_modprobe.policy.text import dump, rule_line
from tests.unit.make import UNKNOWN, USER, NoAccounts, caller, plan, policy, step

HERE = Origin("x")
words = st.text(
    st.characters(min_codepoint=32, exclude_characters="[\x7f", exclude_categories=["Cs"]), min_size=1, max_size=6
)
patterns = st.lists(words, min_size=1, max_size=3).map(tuple)
capabilities = st.integers(0, len(NAMES) - 1).map(Capability)
# A few fixed numbers are enough, since all numbers and names are written in the same way.
numbers = st.frozensets(st.sampled_from([0, 1, 99, 1000, 65534, 2**31, 2**32 - 2]), min_size=1, max_size=2)
capability_sets = st.integers(1, (1 << len(NAMES)) - 1).map(
    lambda mask: frozenset(Capability(bit) for bit in range(len(NAMES)) if mask >> bit & 1)
)
maybe = lambda of: st.none() | of
_marked = (st.just(HERE), patterns, st.just(()) | patterns)
_more = (st.booleans(), st.just("") | words)
marks = st.builds(Mark, *_marked, maybe(capabilities), st.just(False), *_more) | st.builds(
    Mark, *_marked, st.none(), st.just(True), *_more
)
sites = st.builds(CallSite, st.just(HERE), patterns, capabilities, st.just(False), st.just("") | words)
rules = st.builds(
    Rule, st.just(HERE), st.sampled_from(list(Action)), st.just(""), patterns, maybe(patterns), maybe(numbers), maybe(numbers),
    maybe(capability_sets), maybe(patterns), maybe(patterns), maybe(patterns),
    maybe(st.sampled_from(["initial", "other"])), maybe(st.booleans()), maybe(st.sampled_from(["known", "unknown"])),
    st.booleans(), st.just("") | words,
)  # fmt: skip
SOURCES = [each for each in Source if each is not Source.NONE]
settings = st.builds(
    Settings, st.sampled_from(list(Mode)), st.sampled_from(list(Action)), st.booleans(),
    st.sampled_from([order for count in (1, 2, 3) for order in permutations(SOURCES, count)]),
    st.booleans(), st.booleans(), st.booleans(), st.just({}),
)  # fmt: skip
# Two rows of a kind show that none is lost, moved or merged. Texts are escaped character by character.
policies = st.builds(Policy, settings, *[st.lists(each, max_size=2).map(tuple) for each in (marks, sites, rules)])


def rows(found: Policy) -> Policy:
    """Return the policy without origins."""
    bare = lambda each: tuple(row._replace(origin=HERE) for row in each)
    return Policy(found.settings._replace(origins={}), bare(found.marks), bare(found.call_sites), bare(found.rules))


@given(policies)
def test_parse_print_parse_is_identity(found: Policy) -> None:
    assert rows(policy(dump(found))) == rows(found)


def test_the_shipped_policy_survives_printing() -> None:
    shipped = read_policy([str(Path(__file__).parents[3] / "policy.d")])
    assert rows(policy(dump(shipped))) == rows(shipped)
    assert all(row.reason for row in (*shipped.marks, *shipped.call_sites, *shipped.rules))


@pytest.mark.parametrize(
    ("modules", "who", "line"),
    [
        (["sctp"], USER, 'rule = [{ modules = ["sctp"], users = [1000], action = "allow" }]'),
        (["a", "b"], caller(0), 'rule = [{ modules = ["a", "b"], users = [0], action = "allow" }]'),
        (["a"], USER._replace(euid=0), 'rule = [{ modules = ["a"], users = [0, 1000], action = "allow" }]'),
        (["a"], UNKNOWN, 'rule = [{ modules = ["a"], callers = "unknown", action = "allow" }]'),
        (['a"\\'], USER, 'rule = [{ modules = ["a\\"\\\\"], users = [1000], action = "allow" }]'),
    ],
)
def test_the_proposed_rule_allows_the_request(modules: list[str], who: Caller, line: str) -> None:
    assert rule_line(modules, who) == line
    needed = plan(*(step(name)._replace(marker=step("x").marker) for name in modules))
    strict = '\n[settings]\nmode = "privileged"\n'
    request = parse(["x"]).request
    assert decide(policy(strict), request, who._replace(capabilities=0), needed).action == "deny"
    assert decide(policy(line + strict), request, who._replace(capabilities=0), needed).action == "allow"


@given(st.permutations([f"{n}-x.toml" for n in (10, 20, 30)]))
def test_the_order_of_unrelated_files_does_not_matter(order: list[str]) -> None:
    text = {name: f'mark = [{{ modules = ["m{name[:2]}"], privileged = true }}]'.encode() for name in order}
    found = build([(name, text[name]) for name in order], NoAccounts())
    for name in order:
        verdict = decide(found, parse(["x"]).request, USER, plan(step(f"m{name[:2]}")))
        assert (verdict.action, verdict.origin.file) == ("deny", name)
