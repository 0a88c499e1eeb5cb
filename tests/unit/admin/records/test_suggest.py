"""suggest(): its rules parse, allow only what was recorded, and are few."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_modprobe.admin.records.history import Event, caller_of, plan_of, request_of
from safe_modprobe.admin.records.remedy import remedy, snippet, subject_of
from safe_modprobe.admin.records.suggest import Suggestion, as_toml, suggest
from safe_modprobe.callers.kernel_args import parse
from safe_modprobe.decide import decide
from safe_modprobe.model import Action, Caller, Policy, Source, Verdict
from safe_modprobe.policy.schema import build
from safe_modprobe.policy.text import dump
from tests.unit.make import UNKNOWN, USER, NoAccounts, Y, plan, policy, step

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
NOTHING = policy("")


def event(uid: int | None = 1000, *modules: str, at: int = 0, **more: object) -> Event:
    modules = modules or ("m",)
    known = {"euid": uid, "initial_user_namespace": None if uid is None else True, "comm": "prog"}
    base = Event(
        f"c{at}", NOON + timedelta(minutes=at), Action.DENY, "x", modules, modules, uid=uid, source=Source.TRACEFS
    )
    return base._replace(**{**known, **more})  # type: ignore[arg-type]


def applied(found: Suggestion, to: Policy = NOTHING) -> Policy:
    """Return the policy preceded by the printed drop-in, as our parser reads both."""
    return build([("p/20-suggested.toml", as_toml(found).encode()), ("p/90.toml", dump(to).encode())], NoAccounts())


def again(under: Policy, what: Event) -> Verdict:
    return decide(under, request_of(what), caller_of(what), plan_of(what))


def rules(found: Suggestion) -> set[tuple[object, ...]]:
    return {
        (rule.modules, tuple(sorted(rule.users or ())), rule.units or (), rule.user_namespace)
        for rule in (each.rule for each in found.proposals)
    }


INIT, U, V = "initial", "u.service", "v.service"
ROWS = [
    ([], set()),
    ([event()], {(("m",), (1000,), (), INIT)}),
    ([event(), event(at=1)], {(("m",), (1000,), (), INIT)}),
    ([event(verdict=Action.LOG)], {(("m",), (1000,), (), INIT)}),
    ([event(verdict=Action.ALLOW)], set()),
    ([event(1000, "a"), event(1000, "b")], {(("a", "b"), (1000,), (), INIT)}),
    ([event(1000), event(1001)], {(("m",), (1000, 1001), (), INIT)}),
    ([event(1000, "a", "b"), event(1001, "a", "b")], {(("a", "b"), (1000, 1001), (), INIT)}),
    ([event(1000, "a", "b"), event(1001, "a")], {(("a", "b"), (1000,), (), INIT), (("a",), (1001,), (), INIT)}),
    # Joining by module gives two rules, by user three.
    (
        [event(1, "a", "b"), event(2, "a"), event(3, "b")],
        {(("a",), (1, 2), (), INIT), (("b",), (1, 3), (), INIT)},
    ),
    # A rule names a permanent unit together with the user.
    ([event(unit=U)], {(("m",), (1000,), (U,), INIT)}),
    ([event(unit=U), event(1001, unit=U)], {(("m",), (1000, 1001), (U,), INIT)}),
    ([event(unit=U), event(unit=V)], {(("m",), (1000,), (U,), INIT), (("m",), (1000,), (V,), INIT)}),
    ([event(unit="session-1.scope")], {(("m",), (1000,), (), INIT)}),
    ([event(unit="sshd@1-2-3.service")], {(("m",), (1000,), (), INIT)}),
    ([event(unit="user@1000.service")], {(("m",), (1000,), (), INIT)}),
    # A rule for a user in any unit makes one for a single unit unnecessary.
    ([event(unit=U), event()], {(("m",), (1000,), (), INIT)}),
    ([event(unit=U), event(1001)], {(("m",), (1000,), (U,), INIT), (("m",), (1001,), (), INIT)}),
    ([event(1000, "a", unit=U), event(1000, "b")], {(("a",), (1000,), (U,), INIT), (("b",), (1000,), (), INIT)}),
    # DynamicUser=
    ([event(61184, unit=U)], {(("m",), (), (U,), INIT)}),
    ([event(61184, unit=U), event(65519, unit=U)], {(("m",), (), (U,), INIT)}),
    ([event(65519)], set()),
    ([event(65520)], {(("m",), (65520,), (), INIT)}),
    # set-user-ID programs
    ([event(1000, euid=0)], {(("m",), (0, 1000), (), INIT)}),
    ([event(1000, euid=0), event(1001, euid=0)], {(("m",), (0, 1000), (), INIT), (("m",), (0, 1001), (), INIT)}),
    # user namespaces
    ([event(initial_user_namespace=False)], {(("m",), (1000,), (), "other")}),
    ([event(initial_user_namespace=False), event()], {(("m",), (1000,), (), None)}),
    (
        [event(1000, "a", "b"), event(1000, "a", "c", initial_user_namespace=False)],
        {(("a", "b"), (1000,), (), INIT), (("a", "c"), (1000,), (), "other")},
    ),
    ([event(initial_user_namespace=None)], {(("m",), (1000,), (), None)}),
    ([event(1000, initial_user_namespace=False), event(1001)], {(("m",), (1000,), (), "other"), (("m",), (1001,), (), INIT)}),
    # no rule
    ([event(None)], set()),
    ([event(barred="the mode")], set()),
    ([event(barred="that rule")], set()),
    ([event(refused=())], set()),
    ([event(1000, "a\nb")], set()),
    ([event(1000, "\udcff")], set()),
    # a name is not a pattern
    ([event(1000, "a*[")], {(("a[*][[]",), (1000,), (), INIT)}),
]  # fmt: skip


@pytest.mark.parametrize(("events", "expected"), ROWS)
def test_suggested_rules(events: list[Event], expected: set[tuple[object, ...]]) -> None:
    assert rules(suggest(events, NOTHING)) == expected


POLICIES = [
    ("", "deny", 1, 0),
    ("[settings]\ntrial = true", "log", 1, 0),
    ('[settings]\nmismatch = "log"', "log", 1, 0),
    ('[settings]\nmismatch = "allow"', "log", 1, 0),
    ('[settings]\nmode = "allowed"', "deny", 0, 1),
    ('rule = [{ modules = ["m"], action = "allow" }]', "deny", 0, 1),
    ('rule = [{ modules = ["m"], users = [1000], action = "log" }]', "log", 0, 1),
    ('rule = [{ modules = ["m"], users = [1001], action = "allow" }]', "deny", 1, 0),
    ('[[mark]]\nmodules = ["m"]\nprivileged = false', "deny", 0, 1),
    ('[settings]\nmode = "disabled"', "deny", 0, 0),
    ('rule = [{ modules = ["m"], action = "deny" }]', "deny", 0, 0),
    ('rule = [{ modules = ["m"], action = "deny" }]\n[settings]\ntrial = true', "log", 0, 0),
]


@pytest.mark.parametrize(("text", "verdict", "proposals", "settled"), POLICIES)
def test_the_current_policy_decides_what_is_proposed(text: str, verdict: str, proposals: int, settled: int) -> None:
    found = suggest([event(verdict=Action(verdict))], policy(text))
    assert (len(found.proposals), found.settled, len(found.refusals)) == (proposals, settled, 1 - proposals - settled)


events_ = st.builds(
    lambda uid, setuid, modules, unit, initial, verdict, barred, at: event(
        uid, *modules, at=at, euid=0 if setuid else uid, unit=unit, verdict=verdict, barred=barred,
        initial_user_namespace=None if uid is None else initial,
    ),
    st.sampled_from([None, 0, 1000, 1001, 1002, 61200]), st.booleans(),
    st.lists(st.sampled_from("abc"), min_size=1, unique=True),
    st.sampled_from([None, "u.service", "v.service", "session-1.scope"]), st.booleans(),
    st.sampled_from([Action.DENY, Action.DENY, Action.LOG, Action.ALLOW]), st.sampled_from(["", "", "", "the mode"]),
    st.integers(0, 9999),
)  # fmt: skip


def proposable(what: Event) -> bool:
    dynamic = 61200 in (what.uid, what.euid) and what.unit not in ("u.service", "v.service")
    return what.verdict is not Action.ALLOW and what.uid is not None and not what.barred and not dynamic


@settings(max_examples=60)
@given(st.lists(events_, max_size=12))
def test_suggested_rules_allow_only_what_was_recorded(events: list[Event]) -> None:
    found = suggest(events, NOTHING)
    under = applied(found)
    assert rules(found) == {
        (rule.modules, tuple(sorted(rule.users or ())), rule.units or (), rule.user_namespace) for rule in under.rules
    }
    asked = {(subject_of(caller_of(each)), module) for each in events if proposable(each) for module in each.refused}
    for each in events:
        if proposable(each):
            assert again(under, each).action is Action.ALLOW, each
    # Try all callers in all units: only recorded ones, and those a rule cannot tell from them, may pass.
    for uid, unit, initial, module in product(
        (None, 0, 1000, 1001, 4242), (None, "u.service", "w.service"), (True, False), "abd"
    ):
        other = event(uid, module, unit=unit, initial_user_namespace=None if uid is None else initial)
        if again(under, other).action is Action.ALLOW:
            assert uid is not None
            space = "initial" if initial else "other"
            assert any(
                uid in (who.users or {uid})
                and who.unit in (unit, None)
                and who.namespace == space
                and module == asked_for
                for who, asked_for in asked
            ), other
    pairs = {(each.unit, each.namespace, each.users) for each, _ in asked}
    assert len(found.proposals) <= len(pairs)


def test_the_text_shows_evidence_for_each_rule() -> None:
    events = [
        event(at=0, alias="net-pf-38"), event(at=1, comm="ot\nher"), event(at=2, verdict=Action.LOG),
        event(1001, "n", at=3, initial_user_namespace=False, unit=U), event(None, at=4), event(barred="the mode", at=5, origin="90.toml:2"),
        event(65000, at=6),
    ]  # fmt: skip
    text = as_toml(suggest(events, policy(""), {1000: "alice"}))
    assert text.split("\n") == [
        "# Suggested by safe-modprobectl from recorded refusals. Some may come from an attacker, so keep only rules for",
        "# requests that you recognize, and save them as /etc/safe-modprobe/policy.d/20-suggested.toml.",
        "# Instead of adding a rule, you can load the module at boot with /etc/modules-load.d/site.conf if everyone may use",
        "# it (modules-load.d(5)).",
        "",
        "# alice, uid 1000 (prog, ot\\x0aher), 3 times, 2026-05-01 12:00 to 2026-05-01 12:02, for net-pf-38, x",
        "[[rule]]",
        'action = "allow"',
        'modules = ["m"]',
        "users = [1000]",
        'user_namespace = "initial"',
        'reason = "suggested: requested 3 times, last on 2026-05-01"',
        "",
        "# uid 1001 of u.service in another user namespace (prog), once, 2026-05-01 12:03, for x",
        "# Any program of this user can become root of a user namespace, so this rule covers all of them. Keep the key users:",
        '# user_namespace = "other" alone covers every user who can create a user namespace.',
        "[[rule]]",
        'action = "allow"',
        'modules = ["n"]',
        "users = [1001]",
        'units = ["u.service"]',
        'user_namespace = "other"',
        'reason = "suggested: requested once, last on 2026-05-01"',
        "",
        "# Not proposed:",
        "# - m to an unknown caller (tracefs) (prog), once, 2026-05-01 12:04, for x: any caller can become unknown, so a rule",
        "# would cover all users; instead, load the module at boot with /etc/modules-load.d/site.conf if everyone may use it",
        "# - m to alice, uid 1000 (prog), once, 2026-05-01 12:05, for x: a new rule cannot override this refusal; change the",
        "# mode [90.toml:2]",
        "# - m to uid 65000 (prog), once, 2026-05-01 12:06, for x: the unit is unknown, and the uid is one of DynamicUser=,",
        "# which systemd may give to another service",
        "",
    ]


def test_the_text_without_proposals() -> None:
    assert as_toml(suggest([], NOTHING)) == "# No rule is proposed.\n"
    settled = suggest([event(), event(at=1)], policy('[settings]\nmode = "allowed"'))
    assert (
        as_toml(settled) == "# No rule is proposed.\n# The current policy already allows 2 of the recorded refusals.\n"
    )


names = st.text(min_size=1, max_size=6).filter(lambda text: "\0" not in text)


@settings(max_examples=60)
@given(names, names, names, names)
def test_a_name_cannot_end_a_comment(alias: str, module: str, comm: str, unit: str) -> None:
    module = module.replace(" ", "_")
    events = [
        event(1000, module, alias=alias, comm=comm, unit=f"{unit}.service"),
        event(None, module, alias=alias, comm=comm),
    ]
    events.append(event(1000, module, alias=alias, comm=comm, barred=comm, origin=unit))
    found = suggest(events, NOTHING, {1000: comm})
    under = applied(found)
    assert len(under.rules) == len(found.proposals)
    assert all(rule.action is Action.ALLOW for rule in under.rules)
    if found.proposals:
        assert again(under, events[0]).action is Action.ALLOW
        assert again(under, events[0]._replace(uid=1001, euid=1001)).action is Action.DENY


def test_many_equal_requests_are_decided_once() -> None:
    found = suggest((event(at=n, tid=n) for n in range(20_000)), NOTHING)
    assert [each.evidence[0].times for each in found.proposals] == [20_000]


@pytest.mark.parametrize(
    ("text", "caller", "expected"),
    [
        ("", USER, '[[rule]]\naction = "allow"\nmodules = ["m"]\nusers = [1000]\nuser_namespace = "initial"\n'),
        ("", USER._replace(unit=U), '[[rule]]\naction = "allow"\nmodules = ["m"]\nusers = [1000]\nunits = ["u.service"]\nuser_namespace = "initial"\n'),
        ("", USER._replace(capabilities=1 << 16), None),
        ('[settings]\nmode = "disabled"', USER, None),
        ('rule = [{ modules = ["m"], action = "deny" }]', USER, None),
        ("[settings]\ntrial = true", USER, '[[rule]]\naction = "allow"\nmodules = ["m"]\nusers = [1000]\nuser_namespace = "initial"\n'),
        ("", UNKNOWN, '# Any caller can become unknown, so this rule covers all users; instead, load the module at boot with\n'
         '# /etc/modules-load.d/site.conf if everyone may use it.\n[[rule]]\naction = "allow"\nmodules = ["m"]\ncallers = "unknown"\n'),
    ],
)  # fmt: skip
def test_remedy(text: str, caller: Caller, expected: str | None) -> None:
    request, steps = parse(["x"]).request, plan(step("m", Y))
    verdict = decide(policy(text), request, caller, steps)
    assert remedy(verdict) == expected
    if expected is not None:
        assert decide(policy(expected + text), request, caller, steps).action is Action.ALLOW
        other = caller._replace(uid=1001, euid=1001) if caller.known else USER
        assert decide(policy(expected), request, other, steps).action is Action.DENY


@pytest.mark.parametrize(
    ("caller", "warned"),
    [
        (USER._replace(uid=0, euid=0), True),
        (USER._replace(euid=0), True),
        (USER._replace(uid=0, euid=0, unit="docker-0123.scope"), True),
        (USER._replace(uid=0, euid=0, unit=U), False),
        (USER, False),
    ],
)
def test_a_rule_for_root_warns_about_containers(caller: Caller, warned: bool) -> None:
    text = snippet(subject_of(caller), ["m"])
    assert text.startswith("# Root without the capability is also the root of every container that shares") is warned


def test_a_rule_for_a_user_namespace_warns() -> None:
    text = snippet(subject_of(USER._replace(initial_user_namespace=False)), ["m"])
    assert (
        text.startswith("# Any program of this user can become root of a user namespace") and "users = [1000]" in text
    )
