"""decide() as rows: an alias, a caller, a policy and a plan give an action and its origin."""

from itertools import permutations

import pytest

from safe_modprobe.callers.kernel_args import UNNAMED_CALLER, claimed_caller, parse
from safe_modprobe.decide import IN_DOUBT, IN_TRIAL, combine, decide
from safe_modprobe.log.report import needs_record
from safe_modprobe.model import Caller, Plan, Policy, Source, Target, TargetState
from tests.unit.make import NET, ROOT, UNKNOWN, USER, N, Y, caller, cap, plan, policy, step

MARK = '[[mark]]\nmodules = ["m"]\nprivileged = {}\n'
RULE = "rule = [{{ {} }}]"
SITE = "[[call_site]]\naliases = [{}]\n{}\n"
MODE = '[settings]\nmode = "{}"\n'
NET_ADMIN = caller(1000, "CAP_NET_ADMIN")
SYS_ADMIN = caller(1000, "CAP_SYS_ADMIN")
LOADER = caller(1000, "CAP_SYS_MODULE")
USERNS_ROOT = caller(1000, "CAP_SYS_MODULE", "CAP_NET_ADMIN", initial=False)
BARE_ROOT = ROOT._replace(capabilities=0)
KTHREAD = ROOT._replace(kernel_thread=True)
M, MY, MN, MNET = plan(step("m")), plan(step("m", Y)), plan(step("m", N)), plan(step("m", NET))
HARD = plan(step("d", Y), step("m", N, "d"))
SOFT = plan(step("s", Y), step("m"))
SOFT_NEEDS = plan(step("d", Y), step("s", N, "d"), step("m"))
DEPUTY = SITE.format('"crypto-*", "cryptomgr"', "deputy = true")
DEPUTIES = SITE.format('"deputy-*"', "deputy = true")

ROWS = [
    # marker against caller
    ("x", USER, "", M, "allow", "built-in"),
    ("x", USER, "", MN, "allow", "/m/m.ko"),
    ("x", USER, "", MY, "deny", "/m/m.ko"),
    ("x", ROOT, "", MY, "allow", "/m/m.ko"),
    ("x", LOADER, "", MY, "allow", "/m/m.ko"),
    ("x", NET_ADMIN, "", MY, "deny", "/m/m.ko"),
    ("x", USER, "", MNET, "deny", "/m/m.ko"),
    ("x", NET_ADMIN, "", MNET, "allow", "/m/m.ko"),
    ("x", SYS_ADMIN, "", MNET, "deny", "/m/m.ko"),
    ("x", LOADER, "", MNET, "allow", "/m/m.ko"),
    ("x", USERNS_ROOT, "", MY, "deny", "/m/m.ko"),
    ("x", USERNS_ROOT, "", MNET, "deny", "/m/m.ko"),
    ("x", BARE_ROOT, "", MY, "deny", "/m/m.ko"),
    ("x", UNKNOWN, "", MY, "deny", "/m/m.ko"),
    ("x", UNKNOWN, "", M, "allow", "built-in"),
    ("x", KTHREAD, "", MY, "allow", "/m/m.ko"),
    # mark over marker
    ("x", USER, MARK.format("true"), M, "deny", "50-test.toml:1"),
    ("x", USER, MARK.format("true"), MN, "deny", "50-test.toml:1"),
    ("x", USER, MARK.format("false"), MY, "allow", "50-test.toml:1"),
    ("x", NET_ADMIN, MARK.format("true"), MNET, "deny", "50-test.toml:1"),
    ("x", NET_ADMIN, MARK.format('"CAP_NET_ADMIN"'), MY, "allow", "50-test.toml:1"),
    ("x", USER, MARK.format("false") + MARK.format("true"), MY, "allow", "50-test.toml:1"),
    ("x", USER, MARK.format("true") + MARK.format("false"), MY, "deny", "50-test.toml:1"),
    ("x", USER, MARK.format('"marker"') + MARK.format("true"), MY, "deny", "/m/m.ko"),
    ("x", USER, MARK.format('"marker"') + MARK.format("true"), MN, "allow", "/m/m.ko"),
    ("x", USER, MARK.format('"marker"') + MARK.format("true"), M, "allow", "50-test.toml:1"),
    ("x", USER, MARK.format("true") + MARK.format('"marker"'), M, "deny", "50-test.toml:1"),
    ("x", USER, MARK.format('"marker"') + MODE.format("privileged"), M, "deny", "50-test.toml:5"),
    ("x", NET_ADMIN, MARK.format('"marker"'), MNET, "allow", "/m/m.ko"),
    ("fs-x", USER, '[[mark]]\naliases = ["fs-*"]\nprivileged = "CAP_SYS_ADMIN"', M, "deny", "50-test.toml:1"),
    ("fs-x", SYS_ADMIN, '[[mark]]\naliases = ["fs-*"]\nprivileged = "CAP_SYS_ADMIN"', M, "allow", "50-test.toml:1"),
    ("gs-x", USER, '[[mark]]\naliases = ["fs-*"]\nprivileged = "CAP_SYS_ADMIN"', M, "allow", "built-in"),
    # steps
    ("x", USER, "", HARD, "deny", "/m/d.ko"),
    ("x", ROOT, "", HARD, "allow", "/m/d.ko"),
    ("x", USER, "", SOFT, "allow", "built-in"),
    ("x", USER, "", SOFT_NEEDS, "allow", "built-in"),
    # modes
    ("x", USER, MODE.format("allowed"), MY, "allow", "50-test.toml:2"),
    ("x", USER, MODE.format("marked"), M, "allow", "50-test.toml:2"),
    ("x", USER, MODE.format("privileged"), M, "deny", "50-test.toml:2"),
    ("x", USER, MODE.format("privileged"), MN, "allow", "/m/m.ko"),
    ("x", ROOT, MODE.format("privileged"), M, "allow", "50-test.toml:2"),
    ("x", NET_ADMIN, MODE.format("privileged"), MNET, "allow", "/m/m.ko"),
    ("x", NET_ADMIN, MODE.format("privileged"), M, "deny", "50-test.toml:2"),
    ("x", ROOT, MODE.format("disabled"), M, "deny", "50-test.toml:2"),
    ("x", KTHREAD, MODE.format("disabled"), MN, "deny", "50-test.toml:2"),
    ("x", ROOT, RULE.format('modules = ["m"], action = "allow"') + "\n" + MODE.format("disabled"), M, "deny", "50-test.toml:3"),
    # mismatch and unknown callers
    ("x", USER, '[settings]\nmismatch = "log"', MY, "log", "/m/m.ko"),
    ("x", USER, '[settings]\nmismatch = "allow"', MY, "allow", "/m/m.ko"),
    ("x", UNKNOWN, '[settings]\nunknown_caller = "privileged"', MY, "allow", "/m/m.ko"),
    ("x", UNKNOWN._replace(source=Source.KERNEL_ARGS), '[settings]\nunknown_caller = "privileged"', MY, "deny", "/m/m.ko"),
    ("x", USER, '[settings]\nunknown_caller = "privileged"', MY, "deny", "/m/m.ko"),
    # rules
    ("x", USER, RULE.format('modules = ["m"], action = "allow"'), MY, "allow", "50-test.toml:1"),
    ("x", USER, RULE.format('modules = ["m"], users = [1001], action = "allow"'), MY, "deny", "/m/m.ko"),
    ("x", USER, RULE.format('modules = ["m"], users = [1000], action = "log"'), MY, "log", "50-test.toml:1"),
    ("x", ROOT, RULE.format('modules = ["m"], action = "deny"'), M, "deny", "50-test.toml:1"),
    ("x", USER, RULE.format('modules = ["m"], action = "allow"'), HARD, "deny", "/m/d.ko"),
    ("x", USER, RULE.format('modules = ["m", "d"], action = "allow"'), HARD, "allow", "50-test.toml:1"),
    ("x", USER, RULE.format('aliases = ["x"], action = "allow"'), HARD, "allow", "50-test.toml:1"),
    ("x", ROOT, RULE.format('modules = ["d"], action = "deny"'), HARD, "deny", "50-test.toml:1"),
    ("x", ROOT, RULE.format('modules = ["s"], action = "deny"'), SOFT, "allow", "built-in"),
    # call sites
    ("netdev-x", NET_ADMIN, SITE.format('"netdev-*"', 'capability = "CAP_NET_ADMIN"'), MY, "allow", "/m/m.ko"),
    ("netdev-x", SYS_ADMIN, SITE.format('"netdev-*"', 'capability = "CAP_NET_ADMIN"'), MY, "deny", "/m/m.ko"),
    ("x", NET_ADMIN, SITE.format('"netdev-*"', 'capability = "CAP_NET_ADMIN"'), MY, "deny", "/m/m.ko"),
    ("netdev-x", USERNS_ROOT, SITE.format('"netdev-*"', 'capability = "CAP_NET_ADMIN"'), MY, "deny", "/m/m.ko"),
    # deputies
    ("crypto-x", KTHREAD, DEPUTY, MY, "deny", "/m/m.ko"),
    ("crypto-x", KTHREAD, DEPUTY, M, "allow", "built-in"),
    ("crypto-x", KTHREAD._replace(working_for=(USER,)), DEPUTY, MY, "deny", "/m/m.ko"),
    ("crypto-x", KTHREAD._replace(working_for=(USER, ROOT)), DEPUTY, MY, "allow", "/m/m.ko"),
    ("crypto-x", KTHREAD._replace(working_for=(USERNS_ROOT,)), DEPUTY, MY, "deny", "/m/m.ko"),
    ("crypto-x", ROOT, DEPUTY, MY, "allow", "/m/m.ko"),
    ("crypto-x", USER, DEPUTY, MY, "deny", "/m/m.ko"),
    ("crypto-x", KTHREAD._replace(working_for=(UNKNOWN,)), DEPUTY, MY, "deny", "/m/m.ko"),
    # A deputy's own uid and capabilities count neither for rules nor for markers.
    ("crypto-x", KTHREAD, RULE.format('users = [0], action = "allow"') + "\n" + DEPUTY, MY, "deny", "/m/m.ko"),
    ("crypto-x", KTHREAD._replace(working_for=(USER,)), RULE.format('users = [0], action = "allow"') + "\n" + DEPUTY, MY, "deny", "/m/m.ko"),
    ("crypto-x", KTHREAD._replace(working_for=(USER,)), RULE.format('capabilities = ["CAP_SYS_MODULE"], action = "allow"') + "\n" + DEPUTY, MY, "deny", "/m/m.ko"),
    ("crypto-x", KTHREAD._replace(working_for=(USER,)), RULE.format('users = [1000], action = "deny"') + "\n" + DEPUTY, M, "deny", "50-test.toml:1"),
    ("crypto-x", KTHREAD._replace(working_for=(USER,)), RULE.format('users = [1000], action = "allow"') + "\n" + DEPUTY, MY, "allow", "50-test.toml:1"),
    ("crypto-x", KTHREAD, RULE.format('callers = "unknown", action = "deny"') + "\n" + DEPUTY, M, "deny", "50-test.toml:1"),
    ("y", KTHREAD, RULE.format('users = [0], action = "deny"') + "\n" + DEPUTY, M, "deny", "50-test.toml:1"),
    ("y", KTHREAD, DEPUTY, MY, "allow", "/m/m.ko"),
    # a kernel that names no caller: it may be a deputy, except for the crypto API of a patched kernel
    ("crypto-x", UNNAMED_CALLER, DEPUTY, MY, "allow", "/m/m.ko"),
    ("cryptomgr", UNNAMED_CALLER, DEPUTY, MY, "allow", "/m/m.ko"),
    ("deputy-x", UNNAMED_CALLER, DEPUTIES, MY, "deny", "/m/m.ko"),
    ("deputy-x", UNNAMED_CALLER, DEPUTIES, M, "allow", "built-in"),
    ("deputy-x", UNNAMED_CALLER, DEPUTIES + '\n[settings]\nunknown_caller = "privileged"', MY, "deny", "/m/m.ko"),
    ("x", UNNAMED_CALLER, DEPUTIES, MY, "allow", "/m/m.ko"),
    ("deputy-x", USER._replace(source=Source.KERNEL_ARGS), DEPUTIES, MY, "deny", "/m/m.ko"),
    # an install command counts as privileged, and a mark can allow it
    ("x", USER, "", plan(step("m", Y, install=True)), "deny", "/m/m.ko"),
    ("x", USER, MARK.format("false"), plan(step("m", Y, install=True)), "allow", "50-test.toml:1"),
]  # fmt: skip


@pytest.mark.parametrize(("alias", "who", "text", "steps", "action", "origin"), ROWS)
def test_decide(alias: str, who: Caller, text: str, steps: Plan, action: str, origin: str) -> None:
    verdict = decide(policy(text), parse(["--", alias]).request, who, steps)
    assert (verdict.action, str(verdict.origin)) == (action, origin), verdict.reason


CLAIMS = [
    ("grsec_modharden_netdev", ROOT, plan(step("m")), "deny"),
    ("grsec_modharden_fs", ROOT, plan(step("m", registers_filesystem=False)), "deny"),
    ("grsec_modharden_fs", ROOT, plan(step("m", registers_filesystem=True)), "allow"),
    ("grsec_modharden_fs", ROOT, plan(step("d", registers_filesystem=False), step("m", N, "d")), "allow"),
    ("grsec_modharden_fs", USER, plan(step("m", Y)), "deny"),
]


@pytest.mark.parametrize(("argument", "who", "steps", "action"), CLAIMS)
def test_grsecuritys_arguments(argument: str, who: Caller, steps: Plan, action: str) -> None:
    assert decide(policy(""), parse(["--", "x", argument]).request, who, steps).action == action


NET_HELD = "grsec_modharden_normal1000_ modharden_cap12_"
ADMIN_HELD = "grsec_modharden_normal1000_ modharden_cap21_"
FS_ADMIN = f"grsec_modharden_fs {ADMIN_HELD}"
NETDEV = SITE.format('"netdev-*"', 'capability = "CAP_NET_ADMIN"')
MOUNT = '[[mark]]\naliases = ["fs-*"]\nprivileged = "CAP_SYS_ADMIN"'
NO_FS = plan(step("m", registers_filesystem=False))
CLAIMED = [
    # A patched kernel names the caller: alias, kernel arguments, policy, plan; action.
    ("x", "grsec_modharden_normal1000_", "", MY, "deny"),
    ("x", "grsec_modharden_normal1000_", "", M, "allow"),
    ("x", "grsec_modharden_normal0_", "", MY, "deny"),
    ("x", "grsec_modharden_normal0_", RULE.format('modules = ["m"], users = [0], action = "allow"'), MY, "allow"),
    ("x", "grsec_modharden_normal1000_", RULE.format('modules = ["m"], users = [0], action = "allow"'), MY, "deny"),
    ("x", "grsec_modharden_normal00_", RULE.format('modules = ["m"], users = [0], action = "allow"'), MY, "deny"),
    # The call site's capability counts only if the marker, the mark or the policy's row says that it suffices.
    ("netdev-x", NET_HELD, NETDEV, MY, "allow"),
    ("netdev-x", NET_HELD, "", MY, "deny"),
    ("x", NET_HELD, NETDEV, MY, "deny"),
    ("netdev-x", ADMIN_HELD, NETDEV, MY, "deny"),
    ("netdev-x", "grsec_modharden_normal1000_", NETDEV, MY, "deny"),
    ("netdev-x", "modharden_cap12_", NETDEV, MY, "deny"),
    ("netdev-x", "grsec_modharden_normal_ modharden_cap12_", NETDEV, MY, "deny"),
    ("netdev-x", f"{NET_HELD} modharden_cap16_", NETDEV, MY, "deny"),
    ("netdev-x", NET_HELD, MODE.format("privileged") + "\n" + NETDEV, M, "allow"),
    ("netdev-x", ADMIN_HELD, MODE.format("privileged") + "\n" + NETDEV, M, "deny"),
    ("x", NET_HELD, "", MNET, "allow"),
    ("x", ADMIN_HELD, "", MNET, "deny"),
    ("x", NET_HELD, RULE.format('modules = ["m"], capabilities = ["CAP_NET_ADMIN"], action = "deny"'), M, "deny"),
    # With details missing from the arguments, a deny rule matches and an allow or log rule does not.
    ("x", "grsec_modharden_normal1000_", RULE.format('units = ["u.service"], action = "deny"'), M, "deny"),
    ("x", "grsec_modharden_normal1000_", RULE.format('units = ["u.service"], users = [1001], action = "deny"'), M, "deny"),
    ("x", "grsec_modharden_normal1000_", RULE.format('units = ["u.service"], modules = ["n"], action = "deny"'), M, "allow"),
    ("x", "grsec_modharden_normal1000_", RULE.format('units = ["u.service"], action = "allow"'), MY, "deny"),
    ("x", "grsec_modharden_normal1000_", RULE.format('units = ["u.service"], action = "log"'), MY, "deny"),
    ("x", "grsec_modharden_normal1000_", RULE.format('user_namespace = "initial", action = "allow"'), MY, "deny"),
    ("x", "grsec_modharden_normal1000_", RULE.format('user_namespace = "other", action = "deny"'), M, "deny"),
    ("x", NET_HELD, RULE.format('user_namespace = "other", action = "deny"'), M, "allow"),
    ("x", NET_HELD, RULE.format('user_namespace = "initial", action = "allow"'), MY, "allow"),
    ("x", ADMIN_HELD, RULE.format('capabilities = ["CAP_NET_ADMIN"], action = "deny"'), M, "deny"),
    ("x", ADMIN_HELD, RULE.format('capabilities = ["CAP_NET_ADMIN"], action = "allow"'), MY, "deny"),
    ("x", ADMIN_HELD, RULE.format('capabilities = ["CAP_SYS_MODULE"], action = "deny"'), M, "allow"),
    ("x", "nonsense", RULE.format('units = ["u.service"], action = "deny"'), M, "allow"),
    ("x", "nonsense", RULE.format('callers = "unknown", action = "deny"'), M, "deny"),
    # A mount: the arguments name both the caller and the kind of request.
    ("fs-x", FS_ADMIN, MOUNT, M, "allow"),
    ("fs-x", FS_ADMIN, MOUNT, NO_FS, "deny"),
    ("fs-x", ADMIN_HELD, MOUNT, NO_FS, "allow"),
    ("fs-x", "grsec_modharden_fs grsec_modharden_normal1000_", MOUNT, M, "deny"),
    ("fs-x", f"grsec_modharden_fs {NET_HELD}", MOUNT, M, "deny"),
    ("fs-x", f"{ADMIN_HELD} grsec_modharden_fs", MOUNT, M, "deny"),
    ("x", f"grsec_modharden_netdev {NET_HELD}", "", M, "deny"),
]  # fmt: skip


@pytest.mark.parametrize(("alias", "arguments", "text", "steps", "action"), CLAIMED)
def test_a_caller_that_the_kernel_names(alias: str, arguments: str, text: str, steps: Plan, action: str) -> None:
    request = parse(["--", alias, *arguments.split()]).request
    assert decide(policy(text), request, claimed_caller(request.claim), steps).action == action


UNNAMED = [
    # A caller that a patched kernel does not name, and no other source knows: policy, plan; action, whether in doubt.
    ("", MY, "allow", False),
    (RULE.format('units = ["udisks2.service"], action = "deny"'), MY, "deny", True),
    (RULE.format('units = ["udisks2.service"], modules = ["n"], action = "deny"'), MY, "allow", False),
    (RULE.format('users = [1000], action = "deny"'), MY, "deny", True),
    (RULE.format('capabilities = ["CAP_NET_ADMIN"], action = "deny"'), MY, "deny", False),
    (RULE.format('user_namespace = "other", action = "deny"'), MY, "allow", False),
    (RULE.format('callers = "unknown", action = "deny"'), MY, "allow", False),
    (RULE.format('users = [0], action = "allow"') + "\n" + MODE.format("privileged"), M, "allow", False),
    ('rule = [{ users = [0], action = "allow" }, { modules = ["m"], action = "deny" }]', MY, "deny", False),
    (
        'rule = [{ capabilities = ["CAP_BPF"], action = "allow" }, { modules = ["m"], action = "deny" }]', MY, "allow", False
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "steps", "action", "in_doubt"), UNNAMED)
def test_an_unnamed_caller_is_refused_only_by_a_rule_with_undecided_keys(
    text: str, steps: Plan, action: str, in_doubt: bool
) -> None:
    verdict = decide(policy(text), parse(["--", "x"]).request, UNNAMED_CALLER, steps)
    assert (verdict.action, verdict.reason.endswith(f"; {IN_DOUBT}")) == (action, in_doubt)


def on_trial(text: str) -> Policy:
    real = policy(text)
    return real._replace(settings=real.settings._replace(trial=True))


@pytest.mark.parametrize(("alias", "who", "text", "steps", "action", "origin"), ROWS)
def test_a_trial_denies_nothing(alias: str, who: Caller, text: str, steps: Plan, action: str, origin: str) -> None:
    verdict = decide(on_trial(text), parse(["--", alias]).request, who, steps)
    steps_judged = [judged for target in verdict.targets for judged in target.steps]
    assert all(judged.action != "deny" for judged in steps_judged)
    if action == "deny":
        assert (verdict.action, str(verdict.origin)) == ("log", origin)
        assert verdict.reason.endswith(f"; {IN_TRIAL}") and needs_record(verdict)
    elif all(judged.action == "allow" for judged in decide(policy(text), verdict.request, who, steps).targets[0].steps):
        assert verdict == decide(policy(text), verdict.request, who, steps)


@pytest.mark.parametrize("argument", ["grsec_modharden_netdev", "grsec_modharden_normal1000_", "nonsense"])
@pytest.mark.parametrize(
    "text", ["", MODE.format("disabled"), RULE.format('modules = ["m"], action = "deny", quiet = true')]
)
def test_a_trial_allows_and_records_any_kernel_argument(argument: str, text: str) -> None:
    request = parse(["--", "m", argument]).request
    claimed = Caller(Source.KERNEL_ARGS)
    assert decide(policy(text), request, claimed, MY).action == "deny"
    verdict = decide(on_trial(text), request, claimed, MY)
    assert verdict.action == "log" and needs_record(verdict)


def test_a_refused_soft_dependency_is_skipped_with_its_dependencies() -> None:
    verdict = decide(policy(""), parse(["x"]).request, USER, SOFT_NEEDS)
    assert [(each.step.module, each.action) for each in verdict.targets[0].steps] == [
        ("d", "deny"), ("s", "deny"), ("m", "allow"),
    ]  # fmt: skip


def test_each_target_is_judged_on_its_own() -> None:
    both = Plan("x", (*MY.targets, *plan(step("n")).targets))
    verdict = decide(policy(""), parse(["x"]).request, USER, both)
    assert verdict.action == "deny"
    assert [target.action for target in verdict.targets] == ["deny", "allow"]


@pytest.mark.parametrize("state", [TargetState.LIVE, TargetState.BUILT_IN, TargetState.BLACKLISTED])
def test_a_target_without_new_modules_is_allowed(state: TargetState) -> None:
    verdict = decide(policy(MODE.format("disabled")), parse(["x"]).request, USER, Plan("x", (Target("m", state),)))
    assert (verdict.action, verdict.reason) == ("allow", f"m is {state}")


def test_an_alias_without_a_module_is_allowed() -> None:
    verdict = decide(policy(""), parse(["x"]).request, USER, Plan("x"))
    assert (verdict.action, verdict.reason) == ("allow", "no module matches this alias")


@pytest.mark.parametrize(
    ("working_for", "principal"),
    [((USER,), USER), ((USER, ROOT), ROOT), ((USERNS_ROOT, USER), USERNS_ROOT), ((), Caller(Source.TRACEFS))],
)
def test_a_deputys_verdict_names_its_principal(working_for: tuple[Caller, ...], principal: Caller) -> None:
    """Requests of the module's init are judged for this caller, so it must not be the kernel thread."""
    verdict = decide(policy(DEPUTY), parse(["crypto-x"]).request, KTHREAD._replace(working_for=working_for), MY)
    assert verdict.caller == principal


@pytest.mark.parametrize(
    ("source", "callers", "action"),
    [
        (Source.TRACEFS, (USER, ROOT), "allow"),
        (Source.TRACEFS, (USER, USERNS_ROOT), "deny"),
        (Source.PROC, (USER, ROOT), "deny"),
        (Source.PROC, (ROOT, USER), "deny"),
        (Source.PROC, (ROOT, UNKNOWN), "deny"),
        (Source.PROC, (ROOT, KTHREAD), "allow"),
    ],
)
def test_several_callers_get_the_most_permissive_verdict_or_by_proc_the_strictest(
    source: Source, callers: tuple[Caller, ...], action: str
) -> None:
    every = tuple(decide(policy(""), parse(["x"]).request, who._replace(source=source), MY) for who in callers)
    assert combine(every).action == action


def test_one_caller_found_by_proc_makes_the_strictest_verdict_count() -> None:
    """The order does not matter. An inherited caller may have a different source than the others."""
    who = (LOADER, USER._replace(source=Source.PROC), USER._replace(source=Source.KERNEL_ARGS))
    every = [decide(policy(""), parse(["x"]).request, each, MY) for each in who]
    for order in permutations(every):
        assert combine(order).action == "deny"


SOFT = plan(step("d", Y), step("m"))


@pytest.mark.parametrize(
    ("source", "what", "callers", "chosen"),
    [
        (Source.TRACEFS, SOFT, (USER, ROOT), ROOT),
        (Source.PROC, SOFT, (USER, ROOT), USER),
        # Requests of the modules' inits are judged for the chosen caller.
        (Source.TRACEFS, plan(step("m")), (USER, ROOT), ROOT),
        (Source.PROC, plan(step("m")), (USER, ROOT), USER),
        (Source.PROC, plan(step("m")), (ROOT, USER, ROOT), USER),
    ],
)
def test_the_chosen_one_of_several_allowed_callers_does_not_depend_on_their_order(
    source: Source, what: Plan, callers: tuple[Caller, ...], chosen: Caller
) -> None:
    """It is the most privileged one, by /proc alone the least privileged. Skipped soft dependencies are no refusal."""
    every = [decide(policy(""), parse(["x"]).request, who._replace(source=source), what) for who in callers]
    for order in permutations(every):
        assert combine(order).caller == chosen._replace(source=source)


@pytest.mark.parametrize(
    ("text", "who", "steps", "quiet"),
    [
        (MARK.format("true") + "quiet = true", USER, M, True),
        (MARK.format("true") + "quiet = true", USER, plan(step("m"), step("n", N, "m")), True),
        (MARK.format("true") + "quiet = true", ROOT, M, False),
        (MARK.format("true") + "quiet = true", USER, plan(step("d", Y), step("m", N, "d")), False),
        (MARK.format("true") + "quiet = true", USER, plan(step("m"), step("n", Y, "m")), False),
        (MARK.format("true") + "quiet = false", USER, M, False),
        (MARK.format('"marker"') + "quiet = true", USER, MY, False),
        (MARK.format("true"), USER, M, False),
    ],
)
def test_a_quiet_mark_suppresses_only_records_of_its_own_refusals(
    text: str, who: Caller, steps: Plan, quiet: bool
) -> None:
    assert decide(policy(text), parse(["x"]).request, who, steps).quiet is quiet


def test_the_reason_names_the_required_capabilities() -> None:
    verdict = decide(policy(""), parse(["x"]).request, USER, MNET)
    assert verdict.reason == (
        "m: its marker is privileged=CAP_NET_ADMIN; the caller lacks the required capability (CAP_NET_ADMIN or CAP_SYS_MODULE)"
    )
    assert cap("CAP_NET_ADMIN") == verdict.targets[0].steps[0].need
