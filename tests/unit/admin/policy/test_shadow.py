"""Which rows have no effect: tables of examples, and properties checked against match.py and decide()."""

import random
import time
from collections.abc import Iterable
from itertools import combinations, permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_modprobe.admin.policy.shadow import Shadow, find_shadows, impossible
from safe_modprobe.callers.kernel_args import UNNAMED_CALLER, claimed_caller, parse
from safe_modprobe.capability import ALL, SYS_MODULE, holds
from safe_modprobe.decide import decide, needs_details
from safe_modprobe.model import Action, Caller, CallSite, Claim, Mark, Origin, Policy, Request, Rule, Source
from safe_modprobe.policy.match import call_site, first_mark, first_rule, matches_caller, normalize_pattern
from tests.unit.make import UNKNOWN, cap, plan, policy, step

NO_SUCH_NAME = "no possible name matches this pattern"
IMPOSSIBLE = [
    ("modules", "a-b", ""), ("modules", "*", ""), ("modules", "a[-_]b", ""), ("modules", "a[-]b", NO_SUCH_NAME),
    ("modules", "[z-a]", NO_SUCH_NAME), ("modules", "kernel/fs/xfs", "a module's name contains no path and no .ko"),
    ("modules", "xfs.ko", "a module's name contains no path and no .ko"), ("modules", "xfs.ko*", "a module's name contains no path and no .ko"),
    ("modules", "xfs?ko", ""), ("aliases", "a.b/c", ""), ("aliases", "fs[-]x", NO_SUCH_NAME),
    ("units", "a-b.service", ""), ("units", "session-?.scope", ""), ("units", "*", ""), ("units", "asterisk*", ""),
    ("units", "asterisk", "a unit's name ends in .service or .scope"), ("units", "a.socket", "a unit's name ends in .service or .scope"),
    ("units", "*.slice", "a unit's name ends in .service or .scope"),
    ("executables", "/usr/bin/x", ""), ("executables", "*/x", ""), ("executables", "[/]x", ""),
    ("executables", "nginx", "a program's path starts with /"), ("executables", "usr/*", "a program's path starts with /"),
    ("call_sites", "f[-]", ""), ("call_sites", "[z-a]", NO_SUCH_NAME),
]  # fmt: skip


@pytest.mark.parametrize(("key", "pattern", "why"), IMPOSSIBLE)
def test_impossible_patterns(key: str, pattern: str, why: str) -> None:
    assert impossible(key, pattern) == why


NEVER = [
    ('rule = [{ modules = ["a[-]b", "[z-a]"], action = "deny" }]', "'a[-]b', '[z-a]' in 'modules': no possible name matches this pattern"),
    ('rule = [{ modules = ["a"], units = ["x", "y"], action = "deny" }]', "'x', 'y' in 'units': a unit's name ends in .service or .scope"),
    ('rule = [{ callers = "unknown", users = [1], action = "allow" }]', "callers = 'unknown' matches unidentified callers, and 'users' needs an identified one"),
    ('rule = [{ callers = "unknown", no_new_privs = false, action = "allow" }]', "callers = 'unknown' matches unidentified callers, and 'no_new_privs' needs an identified one"),
    ('rule = [{ capabilities = ["CAP_BPF"], user_namespace = "other", action = "allow" }]', "'capabilities' count only in the initial user namespace, and user_namespace = 'other' excludes it"),
    ('mark = [{ aliases = ["x[-]"], modules = ["m"], privileged = true }]', "'x[-]' in 'aliases': no possible name matches this pattern"),
    ('call_site = [{ aliases = ["x[-]"], deputy = true }]', "'x[-]' in 'aliases': no possible name matches this pattern"),
    # These may match.
    ('rule = [{ modules = ["a[-]b", "c"], action = "deny" }]', ""),
    ('rule = [{ callers = "unknown", modules = ["m"], aliases = ["a"], action = "deny" }]', ""),
    ('rule = [{ callers = "known", users = [1], action = "deny" }]', ""),
    ('rule = [{ capabilities = ["CAP_BPF"], user_namespace = "initial", action = "deny" }]', ""),
    ('mark = [{ modules = ["m"], privileged = true }]', ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "why"), NEVER)
def test_what_can_never_match(text: str, why: str) -> None:
    assert [shadow for _, shadow in find_shadows(policy(text))] == [Shadow(never=why)]


def rules(*rows: str) -> str:
    return "\n".join(f"[[rule]]\n{row.replace('; ', chr(10))}\n" for row in rows)


def last(text: str) -> tuple[int, ...]:
    """Return the indexes of the rows that match everything the last one matches."""
    every = list(find_shadows(policy(text)))
    at = {id(row): index for index, (row, _) in enumerate(every)}
    return tuple(at[id(row)] for row in every[-1][1].before)


DENY, ALLOW = 'action = "deny"', 'action = "allow"'
RULES = [
    # Modules and aliases.
    (['modules = ["a"]'], 'modules = ["a"]', (0,)), (['modules = ["a*"]'], 'modules = ["ab", "ac"]', (0,)),
    (['modules = ["ab"]'], 'modules = ["a*"]', ()), (['modules = ["a-b"]'], 'modules = ["a_b"]', (0,)),
    (['modules = ["a"]', 'modules = ["b"]'], 'modules = ["a", "b"]', (0, 1)),
    (['modules = ["a"]', 'modules = ["b"]'], 'modules = ["[ab]"]', (0, 1)),
    (['modules = ["a"]', 'modules = ["x"]', 'modules = ["b"]'], 'modules = ["a", "b"]', (0, 2)),
    (['modules = ["a"]', 'modules = ["b"]'], 'modules = ["a", "b", "c"]', ()),
    (['modules = ["a"]'], 'aliases = ["a"]', ()), (['aliases = ["*"]'], 'modules = ["a"]', (0,)),
    (['modules = ["a"]; aliases = ["x"]'], 'modules = ["a"]', ()), (['modules = ["a"]'], 'modules = ["a"]; aliases = ["x"]', (0,)),
    (['modules = ["a"]; aliases = ["x"]', 'modules = ["a"]; aliases = ["y"]'], 'modules = ["a"]; aliases = ["x", "y"]', (0, 1)),
    (['modules = ["a"]; aliases = ["x"]', 'modules = ["b"]; aliases = ["y"]'], 'modules = ["a", "b"]; aliases = ["x", "y"]', ()),
    (['modules = ["a"]; aliases = ["x"]', 'modules = ["b"]; aliases = ["x"]'], 'modules = ["[ab]"]; aliases = ["x"]', (0, 1)),
    (['modules = ["a", "[z-a]"]'], 'modules = ["a", "[z-a]"]', (0,)), (['modules = ["[z-a]"]'], 'modules = ["a"]', ()),
    # Only rows that are needed are named.
    (['modules = ["a"]', 'modules = ["a*"]'], 'modules = ["ab"]', (1,)), (['modules = ["a*"]', 'modules = ["ab"]'], 'modules = ["ab"]', (0,)),
    # Users.
    (['users = [1, 2]'], 'users = [1]', (0,)), (['users = [1]'], 'users = [1, 2]', ()), (['users = [1]'], 'modules = ["a"]', ()),
    (['users = [1]', 'users = [2]'], 'users = [1, 2]', ()),
    # The other keys about the caller.
    (['groups = [1, 2]'], 'groups = [2]', (0,)), (['groups = [1]'], 'groups = [2]', ()),
    (['capabilities = ["CAP_BPF"]'], 'capabilities = ["CAP_BPF"]; users = [1]', (0,)),
    (['capabilities = ["CAP_BPF"]'], 'capabilities = ["CAP_BPF", "CAP_CHOWN"]', ()),
    (['units = ["*.service"]'], 'units = ["a.service"]', (0,)), (['units = ["*"]'], 'modules = ["a"]', ()),
    (['units = ["a-b.service"]'], 'units = ["a_b.service"]', ()), (['executables = ["/usr/*"]'], 'executables = ["/usr/a", "/b"]', ()),
    (['executables = ["/usr/*", "/b"]'], 'executables = ["/usr/a", "/b"]', (0,)), (['call_sites = ["f*"]'], 'call_sites = ["fg"]', (0,)),
    (['user_namespace = "initial"'], 'user_namespace = "initial"; users = [1]', (0,)),
    (['user_namespace = "initial"'], 'user_namespace = "other"', ()), (['user_namespace = "initial"'], 'users = [1]', ()),
    (['user_namespace = "initial"'], 'capabilities = ["CAP_BPF"]', (0,)), (['no_new_privs = true'], 'no_new_privs = true', (0,)),
    (['no_new_privs = true'], 'no_new_privs = false', ()), (['no_new_privs = false'], 'modules = ["a"]', ()),
    # Known and unknown callers.
    (['callers = "known"'], 'users = [1]', (0,)), (['callers = "known"'], 'modules = ["a"]', ()),
    (['callers = "unknown"'], 'users = [1]', ()), (['callers = "unknown"'], 'callers = "unknown"; modules = ["a"]', (0,)),
    (['callers = "unknown"'], 'callers = "known"', ()), (['users = [1]'], 'callers = "unknown"', ()),
    (['callers = "known"', 'callers = "unknown"'], 'modules = ["a"]', ()),
]  # fmt: skip


@pytest.mark.parametrize(("earlier", "row", "before"), RULES)
def test_rules_that_earlier_rules_cover(earlier: list[str], row: str, before: tuple[int, ...]) -> None:
    assert last(rules(*(f"{each}; {DENY}" for each in (*earlier, row)))) == before


@pytest.mark.parametrize(
    ("earlier", "action", "before"),
    [(ALLOW, ALLOW, (0,)), (DENY, DENY, (0,)), (DENY, ALLOW, (0,)), (ALLOW, DENY, ()), ('action = "log"', ALLOW, (0,))],
)  # fmt: skip
def test_deny_matches_either_uid_and_allow_needs_both(earlier: str, action: str, before: tuple[int, ...]) -> None:
    assert last(rules(f"users = [1]; {earlier}", f"users = [1]; {action}")) == before


OTHER_TABLES = [
    ('mark = [{ modules = ["a*"], privileged = true }, { modules = ["ab"], privileged = false }]', (0,)),
    ('mark = [{ aliases = ["fs-*"], privileged = true }, { modules = ["xfs"], privileged = true }]', ()),
    ('mark = [{ aliases = ["fs-*"], privileged = true }, { aliases = ["fs_x"], modules = ["x"], privileged = true }]', (0,)),
    ('mark = [{ modules = ["a"], privileged = true }, { modules = ["a"], privileged = "marker" }]', (0,)),
    ('call_site = [{ aliases = ["a-*"], deputy = true }, { aliases = ["a_b"], capability = "CAP_BPF" }]', (0,)),
    ('call_site = [{ aliases = ["a-b"], deputy = true }, { aliases = ["a_*"], capability = "CAP_BPF" }]', ()),
    # A rule does not shadow a mark or a call site, nor the reverse.
    ('mark = [{ aliases = ["*"], privileged = true }]\nrule = [{ modules = ["a"], action = "deny" }]', ()),
    ('mark = [{ aliases = ["*"], privileged = true }]\ncall_site = [{ aliases = ["a"], deputy = true }]', ()),
]  # fmt: skip


@pytest.mark.parametrize(("text", "before"), OTHER_TABLES)
def test_marks_and_call_sites(text: str, before: tuple[int, ...]) -> None:
    assert last(text) == before


PARTS = [
    ('mark = [{ modules = ["a"], privileged = true }, { modules = ["a", "b"], privileged = false }]', [("modules", "a", (0,))]),
    ('mark = [{ aliases = ["fs-*"], privileged = true }, { aliases = ["fs-x", "x"], modules = ["m"], privileged = true }]', [("aliases", "fs-x", (0,))]),
    ('mark = [{ modules = ["a"], privileged = true }, { modules = ["c"], privileged = true }, { modules = ["[ac]", "b"], privileged = true }]', [("modules", "[ac]", (0, 1))]),
    # A pattern of one key is reported if earlier rows cover it for every pattern of the other key.
    ('mark = [{ modules = ["a"], aliases = ["x", "y"], privileged = true }, { modules = ["a", "b"], aliases = ["x", "y"], privileged = true }]', [("modules", "a", (0,))]),
    ('mark = [{ modules = ["a"], aliases = ["x"], privileged = true }, { modules = ["a", "b"], aliases = ["x", "y"], privileged = true }]', []),
    # A partly covered pattern is not reported, nor one that is covered for other callers only.
    ('mark = [{ modules = ["ab"], privileged = true }, { modules = ["a*", "b"], privileged = true }]', []),
    ('rule = [{ modules = ["a"], users = [1], action = "deny" }, { modules = ["a", "b"], action = "deny" }]', []),
    ('rule = [{ modules = ["a"], action = "deny" }, { modules = ["a", "b"], users = [1], action = "allow" }]', [("modules", "a", (0,))]),
    ('call_site = [{ aliases = ["a*"], deputy = true }, { aliases = ["a-b", "b"], deputy = true }]', [("aliases", "a-b", (0,))]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "parts"), PARTS)
def test_single_patterns_of_a_row(text: str, parts: list[tuple[str, str, tuple[int, ...]]]) -> None:
    every = list(find_shadows(policy(text)))
    at = {id(row): index for index, (row, _) in enumerate(every)}
    shadow = every[-1][1]
    assert [(key, each, tuple(at[id(row)] for row in rows)) for key, each, rows in shadow.parts] == parts
    assert shadow._replace(parts=()) == Shadow()


MODULE_CAPABILITY = 'capabilities = ["CAP_SYS_MODULE"]'
REDUNDANT = [
    ([f"{MODULE_CAPABILITY}; {ALLOW}"], True), ([f'{MODULE_CAPABILITY}; modules = ["m"]; users = [0]; {ALLOW}'], True),
    ([f'{MODULE_CAPABILITY}; modules = ["m"]; {ALLOW}', f'modules = ["n*"]; {DENY}'], True),
    ([f'{MODULE_CAPABILITY}; {ALLOW}', f'modules = ["n"]; {ALLOW}'], True),
    ([f'{MODULE_CAPABILITY}; {ALLOW}', f'modules = ["n"]; {DENY}'], False),
    ([f'{MODULE_CAPABILITY}; {ALLOW}', 'modules = ["n"]; action = "log"'], False),
    ([f'{MODULE_CAPABILITY}; {ALLOW}', f'modules = ["n"]; quiet = true; {ALLOW}'], False),
    ([f"{MODULE_CAPABILITY}; quiet = true; {ALLOW}"], False), ([f"{MODULE_CAPABILITY}; {DENY}"], False),
    ([f'capabilities = ["CAP_SYS_MODULE", "CAP_BPF"]; {ALLOW}'], False), ([f"users = [0]; {ALLOW}"], False),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "redundant"), REDUNDANT)
def test_a_rule_that_allows_only_privileged_callers(rows: list[str], redundant: bool) -> None:
    _, shadow = next(find_shadows(policy(rules(*rows))))
    why = "it allows nothing new: CAP_SYS_MODULE suffices for any module, and no later rule changes that"
    assert shadow == Shadow(redundant=why if redundant else "")


# What is reported of a row must hold for every request and caller.

# Values come from lists that are made once, because drawing them costs more than the test itself.


def some(*values: Any) -> list[tuple[Any, ...]]:
    """Return tuples of one or two of these values in any order, both lengths equally often."""
    one = [(value,) for value in values]
    two = list(permutations(values, 2))
    return one * max(1, len(two) // len(one)) + two


def maybe(values: Iterable[Any]) -> Any:
    """Draw None twice as often as a value."""
    every = list(values)
    return st.sampled_from([None] * (2 * len(every)) + every)


NAMES = some("*", "a*", "a-b", "a_b", "ab", "[ab]", "?", "a[-]b", "b*", "*b")
NUMBERS = [frozenset(each) for each in some(0, 1, 2)]
CAPABILITIES = [frozenset(each) for each in some(cap("CAP_SYS_MODULE"), cap("CAP_NET_ADMIN"))]
KEYS = dict(
    modules=maybe(NAMES), aliases=maybe(NAMES), users=maybe(NUMBERS), groups=maybe(NUMBERS), capabilities=maybe(CAPABILITIES),
    units=maybe(some("*", "a.service", "*.scope")), executables=maybe(some("/*", "/a", "a")),
    call_sites=maybe(some("f", "f*", "* [[]m]")), user_namespace=maybe(["initial", "other"]),
    no_new_privs=maybe([True, False]), callers=maybe(["known", "unknown"]),
)  # fmt: skip
# With many keys at a time, hardly any row would cover another one.
FEW = [st.sampled_from(list(combinations(sorted(KEYS), count))) for count in range(4)]
few_keys = st.integers(0, 3)
actions = st.sampled_from(list(Action))


@st.composite
def a_rule(draw: Any) -> Rule:
    kept = draw(FEW[draw(few_keys)])
    return Rule(Origin("x"), draw(actions), quiet=draw(st.booleans()), **{key: draw(KEYS[key]) for key in kept})


names = st.sampled_from(NAMES)
marks = st.builds(
    lambda modules, aliases, privileged: Mark(Origin("x"), modules, aliases, privileged),
    st.just(()) | names,
    names,
    maybe([cap("CAP_SYS_MODULE")]),
)
sites = st.builds(lambda aliases: CallSite(Origin("x"), aliases, cap("CAP_BPF")), names)


@st.composite
def some_rules(draw: Any) -> list[Rule]:
    """Draw rules of which some are copies of others with a few keys changed, so that rows cover each other."""
    rows = [draw(a_rule())]
    for _ in range(draw(st.integers(1, 3))):
        new = draw(a_rule())
        if draw(st.booleans()):
            changed = {key: value for key, value in new._asdict().items() if key == "action" or value is not None}
            new = draw(st.sampled_from(rows))._replace(**changed)
        rows.append(new)
    return [row._replace(origin=Origin("x", index + 1)) for index, row in enumerate(rows)]


def some_callers(count: int) -> list[Caller]:
    """Return the same callers in every run; only the rows differ between runs."""
    pick = random.Random(1).choice
    claimed = [
        UNNAMED_CALLER,
        *(claimed_caller(Claim(True, uid, capabilities=held)) for uid in (0, 1) for held in (0, 1 << 12)),
    ]
    return [UNKNOWN, *claimed] + [
        Caller(
            Source.TRACEFS, pick([0, 1, 2]), pick([0, 1, 2]), pick([frozenset({1}), frozenset({0, 2})]),
            pick([0, 1 << 16, 1 << 12]), pick([True, True, False]), pick([True, False, None]), executable=pick([None, "/a", "/b"]),
            unit=pick([None, "a.service", "b.service", "b.scope"]), call_site=pick([None, "", "f", "f [m]", "g"]),
            may_hold=pick([0, 0, 1 << 12]),
        )
        for _ in range(count)
    ]  # fmt: skip


CALLERS = some_callers(40)
TEXTS = ["a", "b", "ab", "a-b", "ba"]
ASKED = [
    (parse(["--", alias]).request, module) for alias, module in (("a", "ab"), ("a-b", "a_b"), ("b", "a"), ("ba", "b"))
]


def with_origins(rows: Any) -> Any:
    """Give each row its own origin, so that the test sees which one decided."""
    return [row._replace(origin=Origin("x", index + 1)) for index, row in enumerate(rows)]


def shadows(found: Policy) -> dict[Origin, Shadow]:
    return {row.origin: shadow for row, shadow in find_shadows(found)}


def may_decide(shadow: Shadow) -> bool:
    return not shadow.never and not shadow.before


@given(some_rules())
@settings(max_examples=120)
def test_a_reported_rule_never_decides(rows: list[Rule]) -> None:
    every = Policy(rules=tuple(rows))
    shadow = shadows(every)
    reported = [row for row in rows if not may_decide(shadow[row.origin])]
    for caller, (request, module) in ((caller, asked) for caller in CALLERS for asked in ASKED if reported):
        decided = first_rule(every, request, caller, module)
        in_doubt = decided is not None and shadow[decided.origin].never and not matches_caller(decided, caller)
        assert decided is None or may_decide(shadow[decided.origin]) or in_doubt
        for row in reported:
            matches = first_rule(Policy(rules=(row,)), request, caller, module) is not None
            if shadow[row.origin].never:
                assert not matches or matches_caller(row, caller) is None
                continue
            before = Policy(rules=shadow[row.origin].before)
            assert not matches or first_rule(before, request, caller, module) is not None


ROOTS = [each._replace(capabilities=ALL, initial_user_namespace=True) for each in CALLERS if each.seen]


@given(some_rules())
@settings(max_examples=120)
def test_skipping_details_of_an_unnamed_caller_changes_no_result(rows: list[Rule]) -> None:
    """A patched kernel does not name root. Refusals and records are the same with and without root's details."""
    grant = Rule(Origin("x", 0), Action.ALLOW, users=frozenset({0}))
    every = Policy(rules=(grant, *rows))
    for request, module in ASKED:
        if needs_details(every, request, UNNAMED_CALLER):
            continue
        results = set()
        for caller in (UNNAMED_CALLER, *ROOTS):
            rule = first_rule(every, request, caller, module)
            results.add((Action.ALLOW, False) if rule is None else (rule.action, rule.quiet))
        assert len(results) == 1


@given(st.lists(marks, min_size=2, max_size=5).map(with_origins))
@settings(max_examples=80)
def test_removing_a_reported_pattern_changes_no_mark(rows: list[Mark]) -> None:
    """Without the pattern, the same mark matches first for every request."""
    for index, (row, shadow) in enumerate(find_shadows(Policy(marks=tuple(rows)))):
        for key, pattern, _ in shadow.parts:
            left = tuple(each for each in getattr(row, key) if normalize_pattern(each) != normalize_pattern(pattern))
            # A mark without any pattern would match everything.
            fewer = [*rows[:index], *([row._replace(**{key: left})] if left else []), *rows[index + 1 :]]
            for alias, module in ((alias, module) for alias in TEXTS for module in TEXTS):
                with_it, without = (first_mark(Policy(marks=tuple(each)), alias, module) for each in (rows, fewer))
                assert (with_it and with_it.origin) == (without and without.origin)


@given(
    st.lists(marks, min_size=2, max_size=5).map(with_origins), st.lists(sites, min_size=2, max_size=5).map(with_origins)
)
@settings(max_examples=80)
def test_a_reported_mark_or_call_site_never_decides(rows: list[Mark], places: list[CallSite]) -> None:
    of_marks, of_sites = shadows(Policy(marks=tuple(rows))), shadows(Policy(call_sites=tuple(places)))
    for alias in TEXTS:
        site = call_site(Policy(call_sites=tuple(places)), alias)
        assert site is None or may_decide(of_sites[site.origin])
        for module in TEXTS:
            mark = first_mark(Policy(marks=tuple(rows)), alias, module)
            assert mark is None or may_decide(of_marks[mark.origin])


@given(st.lists(sites, min_size=2, max_size=4).map(with_origins))
@settings(max_examples=80)
def test_every_call_site_without_effect_is_found(places: list[CallSite]) -> None:
    """With a single key the result is exact: each call site that decides none of these texts is reported."""
    alphabet = [
        f"{a}{b}{c}{d}"
        for a in ("", "a", "b", "c", "_")
        for b in ("", "a", "b", "c", "_")
        for c in ("", "b", "c")
        for d in ("", "b", "c")
    ]
    every = Policy(call_sites=tuple(places))
    deciding = {site.origin for text in alphabet if (site := call_site(every, text)) is not None}
    assert {origin for origin, shadow in shadows(every).items() if may_decide(shadow)} == deciding


@given(some_rules(), st.integers(0, 2), st.lists(marks, max_size=2))
@settings(max_examples=80)
def test_removing_a_redundant_rule_changes_no_verdict(rows: list[Rule], at: int, marked: list[Mark]) -> None:
    allows_nothing_new = dict(action=Action.ALLOW, capabilities=frozenset({cap("CAP_SYS_MODULE")}), quiet=False)
    at = min(at, len(rows) - 1)
    rows = [*rows[:at], rows[at]._replace(**allows_nothing_new), *rows[at + 1 :]]
    shadow = shadows(Policy(rules=tuple(rows)))
    every = Policy(rules=tuple(rows), marks=tuple(marked))
    fewer = every._replace(rules=tuple(row for row in rows if not shadow[row.origin].redundant))
    for caller, (request, module) in ((caller, asked) for caller in CALLERS for asked in ASKED if fewer != every):
        assert result(every, request, caller, module) == result(fewer, request, caller, module)


def result(rows: Policy, request: Request, caller: Caller, module: str) -> tuple[Action, bool]:
    verdict = decide(rows, request, caller, plan(step("other"), step(module), alias=request.alias))
    return verdict.action, verdict.quiet


def test_a_mark_on_thousands_of_modules_is_checked_in_seconds() -> None:
    """Tools that allow only the modules loaded on a machine write such lists."""
    names = [f"module_{index}" for index in range(4000)]
    lists = [names, *(names[at : at + 20] for at in range(0, 1200, 20))]
    rows = policy("\n".join(f"[[mark]]\nmodules = {each}\nprivileged = true\n" for each in lists))
    started = time.process_time()
    every = [shadow for _, shadow in find_shadows(rows)]
    assert time.process_time() - started < 5
    assert every[0] == Shadow()
    assert all(shadow.before == (rows.marks[0],) for shadow in every[1:])
    assert len(every) == 61


def less_known(draw: Any, caller: Caller) -> Caller:
    """Return the caller with some details missing; an unread task also lacks unit, program and call site."""
    parts = {key: None for key in draw(st.sets(st.sampled_from(["euid", "gids", "initial_user_namespace"])))}
    held = draw(st.integers(0, 1 << 17)) & caller.capabilities
    parts |= {"capabilities": held, "may_hold": caller.capabilities | caller.may_hold}
    if draw(st.booleans()):
        parts |= dict.fromkeys(("no_new_privs", "unit", "executable", "call_site"))
    return caller._replace(**parts)


@given(
    st.data(), some_rules(), st.sampled_from([caller for caller in CALLERS if caller.uid is not None and caller.seen])
)
@settings(max_examples=300)
def test_missing_details_never_lift_a_refusal(data: Any, rows: list[Rule], caller: Caller) -> None:
    """The effective uid equals the real one here, and CAP_SYS_MODULE comes with all capabilities."""
    caller = caller._replace(euid=caller.uid)
    if holds(caller.capabilities, SYS_MODULE):
        caller = caller._replace(capabilities=ALL)
    unknown = less_known(data.draw, caller)
    for request, module in ASKED:
        there = first_rule(Policy(rules=tuple(rows)), request, caller, module)
        here = first_rule(Policy(rules=tuple(rows)), request, unknown, module)
        if there is not None and there.action is Action.DENY:
            assert here is not None and here.action is Action.DENY, (unknown, there, here)
