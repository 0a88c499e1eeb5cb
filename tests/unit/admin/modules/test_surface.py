"""What each kind of caller can load: decide() over plans written in the test, without a kernel or files."""

from itertools import pairwise

import pytest

from safe_modprobe.admin.modules.surface import Surface, kinds, reachable_requests, survey
from safe_modprobe.admin.policy.reach import Reach, Reached, family_of, unprivileged_uid
from safe_modprobe.model import Action, Plan, Target, TargetState
from tests.unit.make import N, Y, plan, policy, step

SETTINGS = '[settings]\nmode = "marked"\n'


def reached(request: str) -> Reached:
    family = family_of(request)
    assert family is not None
    return Reached(request, family)


def surface_of(text: str, *plans: Plan) -> Surface:
    judged = policy(text)
    callers = kinds(judged)
    requests = {each.request for each in reachable_requests([reached(each.alias) for each in plans], callers)}
    return survey(judged, callers, [(reached(each.alias), each) for each in plans if each.alias in requests])


def tallies(surface: Surface) -> dict[str, tuple[int, int]]:
    return {kind.key: tuple(surface.tally(kind)) for kind in surface.kinds}  # type: ignore[misc]


def new(alias: str, *steps: object) -> Plan:
    return plan(*steps, alias=alias)  # type: ignore[arg-type]


def mark(modules: str, privileged: str = "true") -> str:
    return f'[[mark]]\nmodules = [{modules}]\nprivileged = {privileged}\nreason = "r"\n'


SOFT = new("net-pf-9", step("soft"), step("m"))
NEEDS = new("net-pf-9", step("base"), step("m", None or N, "base"))
TWO = Plan("net-pf-9", (Target("a", TargetState.NEW, (step("a"),)), Target("b", TargetState.NEW, (step("b"),))))

COUNTS = [
    # (policy, plans, any user, root of a user namespace, network admin), each before and after
    ("", [new("net-pf-9", step("m"))], (1, 1), (1, 1), (1, 1)),
    (mark('"m"'), [new("net-pf-9", step("m"))], (1, 0), (1, 0), (1, 0)),
    (mark('"m"', '"CAP_NET_ADMIN"'), [new("net-pf-9", step("m"))], (1, 0), (1, 0), (1, 1)),
    (mark('"m"', "false"), [new("net-pf-9", step("m", Y))], (1, 1), (1, 1), (1, 1)),
    ("", [new("net-pf-9", step("m", Y))], (1, 0), (1, 0), (1, 0)),
    ("", [new("net-sch-x", step("m"))], (0, 0), (1, 1), (1, 1)),
    ("", [new("fs-x", step("m"))], (0, 0), (1, 1), (0, 0)),
    ("", [new("netdev-x", step("m"))], (0, 0), (0, 0), (1, 1)),
    ("", [new("dm-x", step("m"))], (0, 0), (0, 0), (0, 0)),
    ("", [new("i2c:x", step("m"))], (0, 0), (0, 0), (0, 0)),
    # Dependencies are judged: a refused dependency refuses its target, a refused soft dependency is skipped.
    (mark('"base"'), [NEEDS], (2, 0), (2, 0), (2, 0)),
    (mark('"m"'), [NEEDS], (2, 0), (2, 0), (2, 0)),
    (mark('"soft"'), [SOFT], (2, 1), (2, 1), (2, 1)),
    (mark('"m"'), [SOFT], (2, 0), (2, 0), (2, 0)),
    (mark('"a"'), [TWO], (2, 1), (2, 1), (2, 1)),
    # A module is counted once, by its best outcome.
    (mark('"m"'), [new("net-pf-9", step("m")), new("net-sch-x", step("m"))], (1, 0), (1, 0), (1, 0)),
    (
        mark('"top"'),
        [new("net-pf-9", step("base"), step("top", N, "base")), new("net-sch-x", step("base"))],
        (2, 0), (2, 1), (2, 1),
    ),
    # Modes, mismatch, trial and rules count as in decide().
    ('[settings]\nmode = "privileged"\n', [new("net-pf-9", step("m"))], (1, 0), (1, 0), (1, 0)),
    ('[settings]\nmode = "disabled"\n', [new("net-pf-9", step("m", N))], (1, 0), (1, 0), (1, 0)),
    ('[settings]\nmode = "allowed"\n' + mark('"m"'), [new("net-pf-9", step("m"))], (1, 1), (1, 1), (1, 1)),
    ('[settings]\nmismatch = "log"\n' + mark('"m"'), [new("net-pf-9", step("m"))], (1, 1), (1, 1), (1, 1)),
    ("[settings]\ntrial = true\n" + mark('"m"'), [new("net-pf-9", step("m"))], (1, 1), (1, 1), (1, 1)),
    ('[[rule]]\nmodules = ["m"]\naction = "deny"\nreason = "r"\n', [new("net-pf-9", step("m"))], (1, 0), (1, 0), (1, 0)),
    (
        '[[rule]]\nmodules = ["m"]\nuser_namespace = "other"\naction = "deny"\nreason = "r"\n',
        [new("net-pf-9", step("m"))], (1, 1), (1, 0), (1, 1),
    ),
    (
        mark('"m"') + '[[rule]]\nmodules = ["m"]\nusers = [60000, 1000]\naction = "allow"\nreason = "r"\n',
        [new("net-pf-9", step("m"))], (1, 0), (1, 0), (1, 0),
    ),
    # Modules in the kernel, blacklisted modules and unknown aliases do not count.
    ("", [Plan("net-pf-9", (Target("m", TargetState.BUILT_IN),))], (0, 0), (0, 0), (0, 0)),
    ("", [Plan("net-pf-9", (Target("m", TargetState.LIVE),))], (0, 0), (0, 0), (0, 0)),
    ("", [Plan("net-pf-9", (Target("m", TargetState.BLACKLISTED),))], (0, 0), (0, 0), (0, 0)),
    ("", [Plan("net-pf-9")], (0, 0), (0, 0), (0, 0)),
    ("", [], (0, 0), (0, 0), (0, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "plans", "user", "userns_root", "network_admin"), COUNTS)
def test_counts_for_each_kind_of_caller(
    text: str, plans: list[Plan], user: tuple[int, int], userns_root: tuple[int, int], network_admin: tuple[int, int]
) -> None:
    found = surface_of(text if "[settings]" in text else SETTINGS + text, *plans)
    assert tallies(found) == {"user": user, "userns-root": userns_root, "network-admin": network_admin}
    for kind in found.kinds:
        parts = [found.tally(kind, reach) for reach in found.classes()]
        assert (sum(each.before for each in parts), sum(each.after for each in parts)) == tuple(found.tally(kind))


WHY = [
    (mark('"m"'), new("net-pf-9", step("m")), "m", Action.DENY,
     "r; the caller lacks the required capability (CAP_SYS_MODULE)", "50-test.toml:3"),
    (mark('"base"'), NEEDS, "m", Action.DENY,
     "needs base, which is refused (r; the caller lacks the required capability (CAP_SYS_MODULE))", "50-test.toml:3"),
    (mark('"m"'), NEEDS, "base", Action.DENY,
     "loaded only with m, which is refused: r; the caller lacks the required capability (CAP_SYS_MODULE)", "50-test.toml:3"),
    ("", new("net-pf-9", step("m")), "m", Action.ALLOW, "not marked", "50-test.toml:2"),
    ("", new("net-pf-9", step("m", N)), "m", Action.ALLOW, "its marker is privileged=N", "/m/m.ko"),
    (mark('"m"', "false"), new("net-pf-9", step("m", Y)), "m", Action.ALLOW, "r", "50-test.toml:3"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "one", "module", "action", "reason", "origin"), WHY)
def test_every_outcome_has_its_reason_and_origin(
    text: str, one: Plan, module: str, action: Action, reason: str, origin: str
) -> None:
    (row,) = (row for row in surface_of(SETTINGS + text, one).rows if row.module == module)
    outcome = row.outcomes["user"]
    assert (outcome.action, outcome.reason, str(outcome.origin)) == (action, reason, origin)
    assert outcome.reached.request == one.alias


def test_a_modules_class_is_its_weakest_caller() -> None:
    base = step("base")
    found = surface_of(
        SETTINGS, new("netdev-x", base), new("net-sch-x", base, step("s")), new("fs-x", base), new("dm-x", base)
    )
    assert {row.module: row.reach for row in found.rows} == {"base": Reach.USERNS, "s": Reach.USERNS}
    found = surface_of(SETTINGS, new("netdev-x", base), new("net-pf-9", step("m"), base))
    assert {row.module: row.reach for row in found.rows} == {"base": Reach.USER, "m": Reach.USER}


def test_each_family_counts_its_own_modules() -> None:
    found = surface_of(
        SETTINGS + mark('"s"'), new("fs-x", step("base")), new("net-sch-x", step("base"), step("s", N, "base"))
    )
    counted = {row.family.name: {key: tuple(tally) for key, tally in row.tallies.items()} for row in found.families}
    assert counted == {
        "fs-*": {"userns-root": (1, 1)},
        "net-sch-*": {"userns-root": (2, 0), "network-admin": (2, 0)},
    }


def test_modules_in_the_kernel_are_listed_separately() -> None:
    live = Plan("fs-x", (Target("l", TargetState.LIVE), Target("b", TargetState.BUILT_IN)))
    again = Plan("net-pf-9", (Target("b", TargetState.BUILT_IN),))
    found = surface_of(SETTINGS, live, again)
    assert [tuple(each) for each in found.present] == [
        ("b", TargetState.BUILT_IN, Reach.USER),
        ("l", TargetState.LIVE, Reach.USERNS),
    ]
    assert found.rows == () and found.families == ()


@pytest.mark.parametrize(
    ("users", "uid"),
    [("[]", 60000), ("[1000]", 60000), ("[60000]", 60001), ("[60001, 60000]", 60002), ('["root", 60001]', 60000)],
)
def test_the_unprivileged_caller_is_a_uid_that_no_rule_names(users: str, uid: int) -> None:
    rules = f'[[rule]]\nusers = {users}\naction = "deny"\nreason = "r"\n' if users != "[]" else ""
    assert unprivileged_uid(policy(SETTINGS + rules)) == uid


def test_kinds_differ_by_capabilities_and_namespace() -> None:
    found = kinds(policy(SETTINGS))
    assert [kind.key for kind in found] == ["user", "userns-root", "network-admin"]
    assert [kind.caller.initial_user_namespace for kind in found] == [True, False, True]
    assert all(one.caller != other.caller for one, other in pairwise(found))
    assert found[0].caller.capabilities == 0 and found[2].caller.capabilities == 1 << 12
