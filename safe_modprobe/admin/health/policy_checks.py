"""Checks of the other two questions: which modules are marked, and what happens on a mismatch. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from safe_modprobe.admin.health.facts import Facts
from safe_modprobe.admin.health.problem import Problem, moot, note, weaker
from safe_modprobe.admin.policy.globs import is_literal
from safe_modprobe.admin.policy.sentence import join_names
from safe_modprobe.model import BUILT_IN, COMMAND_LINE, Action, Mode, Origin, Policy
from safe_modprobe.policy.dropins import FOLDERS, TRIAL_FILE
from safe_modprobe.policy.match import first_mark, glob, normalize_pattern

_LDISC = ("tty-ldisc-21", "n_gsm")
"""(alias, module) of one line discipline. It represents the whole class (CVE-2023-6546)."""


def check_policy(facts: Facts) -> Iterator[Problem]:
    """Yield problems of the policy as a whole, and marked modules that are already in the kernel."""
    if facts.policy_error:
        then = (
            "the trial continues"
            if facts.policy.settings.trial
            else "the built-in policy is in force, with mode privileged"
        )
        yield weaker(
            "policy-broken",
            f"the policy is broken, so {then} ({facts.policy_error})",
            "fix the error, then run 'safe-modprobectl reload'",
        )
    elif not facts.policy.files:
        yield weaker(
            "no-policy",
            "there is no policy file, so the built-in policy is in force, with mode privileged",
            f"reinstall the package, or write a policy file in {FOLDERS[2]}",
        )
    yield from _check_settings(facts.policy)
    yield from _check_marked_present(facts)
    yield from _check_line_disciplines(facts)


def _check_settings(policy: Policy) -> Iterator[Problem]:
    """Check each setting that keeps the policy from refusing. Deny rules still apply with some of them."""
    settings = policy.settings
    if settings.trial:
        where = settings.origin("trial")
        yield moot(
            "trial",
            f"a trial is on, so the helper refuses nothing and only records what it would refuse [{where}]",
            _how_to_end_trial(where),
        )
    if settings.mode is Mode.DISABLED:
        yield note(
            "mode-disabled",
            f"mode is disabled, so every module is refused to every caller, even root [{settings.origin('mode')}]",
            "nothing if this is intended; mode marked refuses only marked modules, and only to unprivileged callers",
        )
        return
    has_deny_rule = any(rule.action is Action.DENY for rule in policy.rules)
    problem = weaker if has_deny_rule else moot
    then = "only deny rules refuse anything" if has_deny_rule else "nothing is refused"
    if settings.mode is Mode.ALLOWED:
        yield problem("mode-allowed", f"mode is allowed, so {then} [{settings.origin('mode')}]", 'set mode to "marked"')
    if settings.mismatch is not Action.DENY:
        yield problem(
            "mismatch",
            f"mismatch is {settings.mismatch}, so {then} [{settings.origin('mismatch')}]",
            'set mismatch to "deny"',
        )


def _how_to_end_trial(where: Origin) -> str:
    if where == COMMAND_LINE:
        return "boot without safe_modprobe=log"
    by_command = where.file in (TRIAL_FILE, BUILT_IN.file)
    return f"run 'rm {FOLDERS[1]}/{TRIAL_FILE}' to end it" if by_command else "set trial to false"


def marked_by_name(policy: Policy, modules: Iterable[str]) -> dict[str, bool]:
    """Return the modules that a mark by module name restricts, each with whether the mark gives the full name.

    A mark by alias is left out, because it covers a class of requests and many modules of it may be in normal use.
    """
    marks = [mark for mark in policy.marks if not mark.aliases]
    patterns = [(normalize_pattern(each), mark.capability is not None) for mark in marks for each in mark.modules]
    literal_places: dict[str, int] = {}
    globs = []
    for place, (pattern, _) in enumerate(patterns):
        if is_literal(pattern):
            literal_places.setdefault(pattern, place)
        else:
            globs.append((place, pattern))
    found = {}
    for name in sorted(modules):
        normal = name.replace("-", "_")
        by_glob = next((place for place, pattern in globs if glob(pattern, normal)), len(patterns))
        first = min(by_glob, literal_places.get(normal, by_glob))
        if first < len(patterns) and patterns[first][1]:
            found[name] = first < by_glob
    return found


def _check_marked_present(facts: Facts) -> Iterator[Problem]:
    if built_in := marked_by_name(facts.policy, facts.built_in):
        # A glob may match by accident: sch_* also matches sch_fq_codel, which Debian builds in.
        problem = weaker if any(built_in.values()) else note
        yield problem(
            "marked-built-in",
            f"{_names_and_verb(built_in)} marked but built into this kernel, so users reach the code without a request",
            "boot with initcall_blacklist=NAME_init for each one you do not need, or boot a kernel with it as a module",
        )
    if loaded := marked_by_name(facts.policy, facts.loaded - facts.built_in):
        yield note(
            "marked-loaded",
            f"{_names_and_verb(loaded)} marked but already loaded, so users reach the code without a request",
            "run 'rmmod NAME' for each one you do not need; /etc/modules-load.d may show what loads it",
        )


def _names_and_verb(modules: Mapping[str, bool]) -> str:
    """List the modules, followed by "is" or "are". Those with a full name in a mark come first."""
    names = sorted(modules, key=lambda name: not modules[name])
    return f"{join_names(names)} {'are' if len(names) > 1 else 'is'}"


def _check_line_disciplines(facts: Facts) -> Iterator[Problem]:
    policy = facts.policy
    if policy.settings.mode is not Mode.MARKED or not facts.ldisc_autoload:
        return
    mark = first_mark(policy, *_LDISC)
    if mark is None or mark.capability is None:
        yield note(
            "line-disciplines",
            "dev.tty.ldisc_autoload is 1 and no mark covers line disciplines, so any user can have one loaded",
            "set dev.tty.ldisc_autoload=0 with sysctl and in sysctl.d, or add a mark for the aliases tty-ldisc-*",
        )
