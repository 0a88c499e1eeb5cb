"""What must hold for every policy, caller and plan."""

from hypothesis import given
from hypothesis import strategies as st

from safe_modprobe.callers.kernel_args import parse
from safe_modprobe.capability import SYS_MODULE
from safe_modprobe.decide import decide
from safe_modprobe.model import UNMARKED, Action, Caller, Mark, Mode, Origin, Plan, Policy, Settings
from tests.unit.make import NET, N, Y, caller, plan, policy, step

CAPS = ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_NET_RAW"]
callers = st.builds(
    lambda uid, caps, initial: caller(uid, *caps, initial=initial)._replace(
        capabilities=sum(
            1 << {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYS_MODULE": 16, "CAP_NET_RAW": 13}[c] for c in caps
        )
    ),
    st.sampled_from([0, 1000, 1001]),
    st.sets(st.sampled_from(CAPS)),
    st.booleans(),
)
markers = st.sampled_from([UNMARKED, Y, N, NET])
plans = st.lists(markers, min_size=1, max_size=4).map(
    lambda each: plan(*(step(f"m{i}", mark, *([f"m{i - 1}"] if i % 2 else [])) for i, mark in enumerate(each)))
)
TEXTS = [
    "",
    'mark = [{ modules = ["m0"], privileged = "CAP_NET_ADMIN" }]',
    'mark = [{ modules = ["m*"], privileged = false }]',
    'call_site = [{ aliases = ["x"], capability = "CAP_SYS_ADMIN" }]',
    'rule = [{ modules = ["m1"], users = [1000], action = "allow" }]',
    'rule = [{ modules = ["m1"], users = [1000], action = "deny" }]',
]
policies = st.builds(
    lambda mode, mismatch, rows: rows._replace(settings=Settings(mode=mode, mismatch=mismatch)),
    st.sampled_from(list(Mode)),
    st.sampled_from(list(Action)),
    st.sampled_from([policy(text) for text in TEXTS]),
)
REQUEST = parse(["x"]).request
SEVERITY = [Action.ALLOW, Action.LOG, Action.DENY]


@given(policies, callers, plans, st.integers(0, 40))
def test_more_capability_never_turns_allow_into_deny(rules: Policy, who: Caller, what: Plan, bit: int) -> None:
    before = decide(rules, REQUEST, who, what).action
    after = decide(rules, REQUEST, who._replace(capabilities=who.capabilities | 1 << bit), what).action
    assert SEVERITY.index(after) <= SEVERITY.index(before)


@given(policies, callers, plans, st.sampled_from(["m0", "m1", "m*", "other"]))
def test_a_mark_never_turns_deny_into_allow(rules: Policy, who: Caller, what: Plan, pattern: str) -> None:
    mark = Mark(Origin("first"), modules=(pattern,), capability=SYS_MODULE)
    before = decide(rules, REQUEST, who, what).action
    after = decide(rules._replace(marks=(mark, *rules.marks)), REQUEST, who, what).action
    assert SEVERITY.index(after) >= SEVERITY.index(before)


@given(callers, plans)
def test_without_rules_a_caller_needs_the_required_capability(who: Caller, what: Plan) -> None:
    verdict = decide(policy(""), REQUEST, who, what)
    for target in verdict.targets:
        for judged in target.steps:
            if judged.need is not None and judged.action is not Action.DENY and target.action is not Action.DENY:
                assert who.initial_user_namespace
                assert who.capabilities >> judged.need & 1 or who.capabilities >> SYS_MODULE & 1


@given(policies, callers, plans, plans)
def test_the_order_of_targets_does_not_matter(rules: Policy, who: Caller, one: Plan, two: Plan) -> None:
    forward = decide(rules, REQUEST, who, Plan("x", (*one.targets, *two.targets)))
    backward = decide(rules, REQUEST, who, Plan("x", (*two.targets, *one.targets)))
    assert forward.action == backward.action
    assert forward.targets == (*backward.targets[1:], backward.targets[0])
