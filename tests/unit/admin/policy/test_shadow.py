"""Which rows can decide anything: tables, and that a row of which it is denied really never does."""

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

NOT_LIKE_THAT = "no name is like that"
IMPOSSIBLE = [
    ("modules", "a-b", ""), ("modules", "*", ""), ("modules", "a[-_]b", ""), ("modules", "a[-]b", NOT_LIKE_THAT),
    ("modules", "[z-a]", NOT_LIKE_THAT), ("modules", "kernel/fs/xfs", "a module's name has no folder and no .ko"),
    ("modules", "xfs.ko", "a module's name has no folder and no .ko"), ("modules", "xfs.ko*", "a module's name has no folder and no .ko"),
    ("modules", "xfs?ko", ""), ("aliases", "a.b/c", ""), ("aliases", "fs[-]x", NOT_LIKE_THAT),
    ("units", "a-b.service", ""), ("units", "session-?.scope", ""), ("units", "*", ""), ("units", "asterisk*", ""),
    ("units", "asterisk", "a unit's name ends in .service or .scope"), ("units", "a.socket", "a unit's name ends in .service or .scope"),
    ("units", "*.slice", "a unit's name ends in .service or .scope"),
    ("executables", "/usr/bin/x", ""), ("executables", "*/x", ""), ("executables", "[/]x", ""),
    ("executables", "nginx", "a program's path starts with /"), ("executables", "usr/*", "a program's path starts with /"),
    ("call_sites", "f[-]", ""), ("call_sites", "[z-a]", NOT_LIKE_THAT),
]  # fmt: skip


@pytest.mark.parametrize(("key", "pattern", "why"), IMPOSSIBLE)
def test_impossible_patterns(key: str, pattern: str, why: str) -> None:
    assert impossible(key, pattern) == why


NEVER = [
    ('rule = [{ modules = ["a[-]b", "[z-a]"], action = "deny" }]', "'a[-]b', '[z-a]' in 'modules': no name is like that"),
    ('rule = [{ modules = ["a"], units = ["x", "y"], action = "deny" }]', "'x', 'y' in 'units': a unit's name ends in .service or .scope"),
    ('rule = [{ callers = "unknown", users = [1], action = "allow" }]', "callers = 'unknown' is who nobody knows anything about, and it asks for 'users'"),
    ('rule = [{ callers = "unknown", no_new_privs = false, action = "allow" }]', "callers = 'unknown' is who nobody knows anything about, and it asks for 'no_new_privs'"),
    ('rule = [{ capabilities = ["CAP_BPF"], user_namespace = "other", action = "allow" }]', "'capabilities' count in the initial user namespace only, and user_namespace = 'other' is outside of it"),
    ('mark = [{ aliases = ["x[-]"], modules = ["m"], privileged = true }]', "'x[-]' in 'aliases': no name is like that"),
    ('call_site = [{ aliases = ["x[-]"], deputy = true }]', "'x[-]' in 'aliases': no name is like that"),
    # these may match
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
    """The numbers of the rows that leave nothing to the last one."""
    every = list(find_shadows(policy(text)))
    at = {id(row): index for index, (row, _) in enumerate(every)}
    return tuple(at[id(row)] for row in every[-1][1].before)


DENY, ALLOW = 'action = "deny"', 'action = "allow"'
RULES = [
    # what
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
    # a row that is named is one that it takes
    (['modules = ["a"]', 'modules = ["a*"]'], 'modules = ["ab"]', (1,)), (['modules = ["a*"]', 'modules = ["ab"]'], 'modules = ["ab"]', (0,)),
    # users
    (['users = [1, 2]'], 'users = [1]', (0,)), (['users = [1]'], 'users = [1, 2]', ()), (['users = [1]'], 'modules = ["a"]', ()),
    (['users = [1]', 'users = [2]'], 'users = [1, 2]', ()),
    # the other keys about the caller
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
    # who is known
    (['callers = "known"'], 'users = [1]', (0,)), (['callers = "known"'], 'modules = ["a"]', ()),
    (['callers = "unknown"'], 'users = [1]', ()), (['callers = "unknown"'], 'callers = "unknown"; modules = ["a"]', (0,)),
    (['callers = "unknown"'], 'callers = "known"', ()), (['users = [1]'], 'callers = "unknown"', ()),
    (['callers = "known"', 'callers = "unknown"'], 'modules = ["a"]', ()),
]  # fmt: skip


@pytest.mark.parametrize(("earlier", "row", "before"), RULES)
def test_rules_that_earlier_ones_leave_nothing_to(earlier: list[str], row: str, before: tuple[int, ...]) -> None:
    assert last(rules(*(f"{each}; {DENY}" for each in (*earlier, row)))) == before


@pytest.mark.parametrize(
    ("earlier", "action", "before"),
    [(ALLOW, ALLOW, (0,)), (DENY, DENY, (0,)), (DENY, ALLOW, (0,)), (ALLOW, DENY, ()), ('action = "log"', ALLOW, (0,))],
)  # fmt: skip
def test_a_refusal_takes_either_uid_and_a_grant_both(earlier: str, action: str, before: tuple[int, ...]) -> None:
    assert last(rules(f"users = [1]; {earlier}", f"users = [1]; {action}")) == before


OTHER_TABLES = [
    ('mark = [{ modules = ["a*"], privileged = true }, { modules = ["ab"], privileged = false }]', (0,)),
    ('mark = [{ aliases = ["fs-*"], privileged = true }, { modules = ["xfs"], privileged = true }]', ()),
    ('mark = [{ aliases = ["fs-*"], privileged = true }, { aliases = ["fs_x"], modules = ["x"], privileged = true }]', (0,)),
    ('mark = [{ modules = ["a"], privileged = true }, { modules = ["a"], privileged = "marker" }]', (0,)),
    ('call_site = [{ aliases = ["a-*"], deputy = true }, { aliases = ["a_b"], capability = "CAP_BPF" }]', (0,)),
    ('call_site = [{ aliases = ["a-b"], deputy = true }, { aliases = ["a_*"], capability = "CAP_BPF" }]', ()),
    # a rule and a mark, or a call site, are no rivals
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
    # of both keys, each where all of the other is taken
    ('mark = [{ modules = ["a"], aliases = ["x", "y"], privileged = true }, { modules = ["a", "b"], aliases = ["x", "y"], privileged = true }]', [("modules", "a", (0,))]),
    ('mark = [{ modules = ["a"], aliases = ["x"], privileged = true }, { modules = ["a", "b"], aliases = ["x", "y"], privileged = true }]', []),
    # not what is taken in part, nor from others
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
MOOT = [
    ([f"{MODULE_CAPABILITY}; {ALLOW}"], True), ([f'{MODULE_CAPABILITY}; modules = ["m"]; users = [0]; {ALLOW}'], True),
    ([f'{MODULE_CAPABILITY}; modules = ["m"]; {ALLOW}', f'modules = ["n*"]; {DENY}'], True),
    ([f'{MODULE_CAPABILITY}; {ALLOW}', f'modules = ["n"]; {ALLOW}'], True),
    ([f'{MODULE_CAPABILITY}; {ALLOW}', f'modules = ["n"]; {DENY}'], False),
    ([f'{MODULE_CAPABILITY}; {ALLOW}', 'modules = ["n"]; action = "log"'], False),
    ([f'{MODULE_CAPABILITY}; {ALLOW}', f'modules = ["n"]; quiet = true; {ALLOW}'], False),
    ([f"{MODULE_CAPABILITY}; quiet = true; {ALLOW}"], False), ([f"{MODULE_CAPABILITY}; {DENY}"], False),
    ([f'capabilities = ["CAP_SYS_MODULE", "CAP_BPF"]; {ALLOW}'], False), ([f"users = [0]; {ALLOW}"], False),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "moot"), MOOT)
def test_a_rule_for_those_who_may_anyway(rows: list[str], moot: bool) -> None:
    _, shadow = next(find_shadows(policy(rules(*rows))))
    why = "it allows nothing new: who holds CAP_SYS_MODULE may have any module, and no later rule says otherwise"
    assert shadow == Shadow(moot=why if moot else "")


# What is said of a row must hold for every request and caller.

# Each value of a key is one of a list that is made once: a draw costs more than what is tried with it.


def some(*values: Any) -> list[tuple[Any, ...]]:
    """One of these or two, in any order, and as often the one as the other."""
    one = [(value,) for value in values]
    two = list(permutations(values, 2))
    return one * max(1, len(two) // len(one)) + two


def maybe(values: Iterable[Any]) -> Any:
    """None, twice as often as a value."""
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
# Few keys at a time, or no row would ever lie in another's shadow.
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
    """Rows of which some are others with a key or two changed, as rows in another's shadow are."""
    rows = [draw(a_rule())]
    for _ in range(draw(st.integers(1, 3))):
        new = draw(a_rule())
        if draw(st.booleans()):
            changed = {key: value for key, value in new._asdict().items() if key == "action" or value is not None}
            new = draw(st.sampled_from(rows))._replace(**changed)
        rows.append(new)
    return [row._replace(origin=Origin("x", index + 1)) for index, row in enumerate(rows)]


def some_callers(count: int) -> list[Caller]:
    """The same in every run: what differs from run to run are the rows."""
    pick = random.Random(1).choice
    words = [
        UNNAMED_CALLER,
        *(claimed_caller(Claim(True, uid, capabilities=held)) for uid in (0, 1) for held in (0, 1 << 12)),
    ]
    return [UNKNOWN, *words] + [
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


def known(rows: Any) -> Any:
    """Rows that differ in their origin, so that the one that decided can be told."""
    return [row._replace(origin=Origin("x", index + 1)) for index, row in enumerate(rows)]


def said(found: Policy) -> dict[Origin, Shadow]:
    return {row.origin: shadow for row, shadow in find_shadows(found)}


def may_decide(shadow: Shadow) -> bool:
    return not shadow.never and not shadow.before


@given(some_rules())
@settings(max_examples=120)
def test_a_rule_of_which_it_is_denied_never_decides(rows: list[Rule]) -> None:
    every = Policy(rules=tuple(rows))
    shadow = said(every)
    denied = [row for row in rows if not may_decide(shadow[row.origin])]
    for caller, (request, module) in ((caller, asked) for caller in CALLERS for asked in ASKED if denied):
        decided = first_rule(every, request, caller, module)
        in_doubt = decided is not None and shadow[decided.origin].never and not matches_caller(decided, caller)
        assert decided is None or may_decide(shadow[decided.origin]) or in_doubt
        for row in denied:
            matches = first_rule(Policy(rules=(row,)), request, caller, module) is not None
            if shadow[row.origin].never:
                assert not matches or matches_caller(row, caller) is None
                continue
            before = Policy(rules=shadow[row.origin].before)
            assert not matches or first_rule(before, request, caller, module) is not None


ROOTS = [each._replace(capabilities=ALL, initial_user_namespace=True) for each in CALLERS if each.seen]


@given(some_rules())
@settings(max_examples=120)
def test_where_a_look_at_root_is_saved_it_would_have_said_the_same(rows: list[Rule]) -> None:
    """Of whom a patched kernel says nothing: nothing is refused, recorded or kept quiet otherwise than without a look."""
    grant = Rule(Origin("x", 0), Action.ALLOW, users=frozenset({0}))
    every = Policy(rules=(grant, *rows))
    for request, module in ASKED:
        if needs_details(every, request, UNNAMED_CALLER):
            continue
        said = set()
        for caller in (UNNAMED_CALLER, *ROOTS):
            rule = first_rule(every, request, caller, module)
            said.add((Action.ALLOW, False) if rule is None else (rule.action, rule.quiet))
        assert len(said) == 1


@given(st.lists(marks, min_size=2, max_size=5).map(known))
@settings(max_examples=80)
def test_a_pattern_of_which_it_is_denied_is_not_missed(rows: list[Mark]) -> None:
    """Without it, the same mark is the first to match, whatever is asked for."""
    for index, (row, shadow) in enumerate(find_shadows(Policy(marks=tuple(rows)))):
        for key, pattern, _ in shadow.parts:
            left = tuple(each for each in getattr(row, key) if normalize_pattern(each) != normalize_pattern(pattern))
            # No pattern at all would match anything.
            fewer = [*rows[:index], *([row._replace(**{key: left})] if left else []), *rows[index + 1 :]]
            for alias, module in ((alias, module) for alias in TEXTS for module in TEXTS):
                with_it, without = (first_mark(Policy(marks=tuple(each)), alias, module) for each in (rows, fewer))
                assert (with_it and with_it.origin) == (without and without.origin)


@given(st.lists(marks, min_size=2, max_size=5).map(known), st.lists(sites, min_size=2, max_size=5).map(known))
@settings(max_examples=80)
def test_a_mark_or_call_site_of_which_it_is_denied_never_decides(rows: list[Mark], places: list[CallSite]) -> None:
    of_marks, of_sites = said(Policy(marks=tuple(rows))), said(Policy(call_sites=tuple(places)))
    for alias in TEXTS:
        site = call_site(Policy(call_sites=tuple(places)), alias)
        assert site is None or may_decide(of_sites[site.origin])
        for module in TEXTS:
            mark = first_mark(Policy(marks=tuple(rows)), alias, module)
            assert mark is None or may_decide(of_marks[mark.origin])


@given(st.lists(sites, min_size=2, max_size=4).map(known))
@settings(max_examples=80)
def test_of_one_key_all_that_lies_in_shadow_is_found(places: list[CallSite]) -> None:
    """Over the texts of these patterns it is exact: who never decides any of them is called so."""
    alphabet = [
        f"{a}{b}{c}{d}"
        for a in ("", "a", "b", "c", "_")
        for b in ("", "a", "b", "c", "_")
        for c in ("", "b", "c")
        for d in ("", "b", "c")
    ]
    every = Policy(call_sites=tuple(places))
    deciding = {site.origin for text in alphabet if (site := call_site(every, text)) is not None}
    assert {origin for origin, shadow in said(every).items() if may_decide(shadow)} == deciding


@given(some_rules(), st.integers(0, 2), st.lists(marks, max_size=2))
@settings(max_examples=80)
def test_without_a_moot_rule_the_same_is_done(rows: list[Rule], at: int, marked: list[Mark]) -> None:
    may_anyway = dict(action=Action.ALLOW, capabilities=frozenset({cap("CAP_SYS_MODULE")}), quiet=False)
    at = min(at, len(rows) - 1)
    rows = [*rows[:at], rows[at]._replace(**may_anyway), *rows[at + 1 :]]
    shadow = said(Policy(rules=tuple(rows)))
    every = Policy(rules=tuple(rows), marks=tuple(marked))
    fewer = every._replace(rules=tuple(row for row in rows if not shadow[row.origin].moot))
    for caller, (request, module) in ((caller, asked) for caller in CALLERS for asked in ASKED if fewer != every):
        assert done(every, request, caller, module) == done(fewer, request, caller, module)


def done(rows: Policy, request: Request, caller: Caller, module: str) -> tuple[Action, bool]:
    verdict = decide(rows, request, caller, plan(step("other"), step(module), alias=request.alias))
    return verdict.action, verdict.quiet


def test_a_list_of_every_module_there_is_and_what_comes_after_it() -> None:
    """As tools write it that allow a machine only what it has loaded."""
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
    """The same, of whom a part is not known: a task that was not looked at has no unit, program or call site either."""
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
def test_whoever_is_less_known_is_refused_no_less(data: Any, rows: list[Rule], caller: Caller) -> None:
    """But that what nobody knows of is not asked for: an effective uid, and what CAP_SYS_MODULE may bring anyway."""
    caller = caller._replace(euid=caller.uid)
    if holds(caller.capabilities, SYS_MODULE):
        caller = caller._replace(capabilities=ALL)
    unknown = less_known(data.draw, caller)
    for request, module in ASKED:
        there = first_rule(Policy(rules=tuple(rows)), request, caller, module)
        here = first_rule(Policy(rules=tuple(rows)), request, unknown, module)
        if there is not None and there.action is Action.DENY:
            assert here is not None and here.action is Action.DENY, (unknown, there, here)
