"""What can go wrong with the other two questions: what is marked, and what is done on a mismatch."""

from collections.abc import Iterable, Iterator, Mapping

from safe_modprobe.admin.health.facts import Facts
from safe_modprobe.admin.health.problem import Problem, moot, note, weaker
from safe_modprobe.admin.policy.globs import is_literal
from safe_modprobe.admin.policy.sentence import join_names
from safe_modprobe.model import BUILT_IN, COMMAND_LINE, Action, Mode, Origin, Policy
from safe_modprobe.policy.dropins import FOLDERS, TRIAL_FILE
from safe_modprobe.policy.match import first_mark, glob, normalize_pattern

_LDISC = ("tty-ldisc-21", "n_gsm")
"""One of the line disciplines, which stands for the class: CVE-2023-6546."""


def check_policy(facts: Facts) -> Iterator[Problem]:
    """The policy as a whole, and what is in the kernel already whatever it says."""
    if facts.policy_error:
        what = "the trial goes on" if facts.policy.settings.trial else "the built-in one is in force, mode privileged"
        yield weaker(
            "policy-broken",
            f"the policy is broken, so that {what} ({facts.policy_error})",
            "mend that, and see what 'safe-modprobectl reload' says",
        )
    elif not facts.policy.files:
        yield weaker(
            "no-policy",
            "there is no policy file, so that the built-in policy is in force, mode privileged",
            f"install the package anew, or write one in {FOLDERS[2]}",
        )
    yield from _of_settings(facts.policy)
    yield from _of_present(facts)
    yield from _of_line_disciplines(facts)


def _of_settings(policy: Policy) -> Iterator[Problem]:
    """Each switch by which next to nothing is refused; the rules that refuse by themselves still do."""
    settings = policy.settings
    if settings.trial:
        where = settings.origin("trial")
        yield moot(
            "trial",
            f"a trial is on, so that nothing is refused, and what would be is recorded [{where}]",
            _end_of_trial(where),
        )
    if settings.mode is Mode.DISABLED:
        yield note(
            "mode-disabled",
            f"mode is disabled, so that every module is refused to everybody, root too [{settings.origin('mode')}]",
            "nothing, if it is meant; mode marked refuses marked modules to those without privilege",
        )
        return
    refuses = any(rule.action is Action.DENY for rule in policy.rules)
    problem = weaker if refuses else moot
    but = "but for the rules that deny, nothing is refused" if refuses else "nothing is refused"
    if settings.mode is Mode.ALLOWED:
        yield problem(
            "mode-allowed", f"mode is allowed, so that {but} [{settings.origin('mode')}]", 'set mode to "marked"'
        )
    if settings.mismatch is not Action.DENY:
        yield problem(
            "mismatch",
            f"mismatch is {settings.mismatch}, so that {but} [{settings.origin('mismatch')}]",
            'set mismatch to "deny"',
        )


def _end_of_trial(where: Origin) -> str:
    if where == COMMAND_LINE:
        return "boot without it"
    return f"'rm {FOLDERS[1]}/{TRIAL_FILE}' ends it" if where.file in (TRIAL_FILE, BUILT_IN.file) else "set it to false"


def marked_by_name(policy: Policy, modules: Iterable[str]) -> dict[str, bool]:
    """Those modules for which a mark wants privilege, whatever they are asked for by; whether it names them in full.

    A mark by alias is left out: it is about who asks for a class, and most of a class may be in use.
    """
    marks = [mark for mark in policy.marks if not mark.aliases]
    patterns = [(normalize_pattern(each), mark.capability is not None) for mark in marks for each in mark.modules]
    in_full: dict[str, int] = {}
    globs = []
    for place, (pattern, _) in enumerate(patterns):
        if is_literal(pattern):
            in_full.setdefault(pattern, place)
        else:
            globs.append((place, pattern))
    found = {}
    for name in sorted(modules):
        normal = name.replace("-", "_")
        by_glob = next((place for place, pattern in globs if glob(pattern, normal)), len(patterns))
        first = min(by_glob, in_full.get(normal, by_glob))
        if first < len(patterns) and patterns[first][1]:
            found[name] = first < by_glob
    return found


def _of_present(facts: Facts) -> Iterator[Problem]:
    if built_in := marked_by_name(facts.policy, facts.built_in):
        # sch_fq_codel, which Debian builds in, is one of sch_*; nobody had it in mind.
        problem = weaker if any(built_in.values()) else note
        yield problem(
            "marked-built-in",
            f"{_named(built_in)} marked and built into this kernel, so that users need no module for it",
            "boot with initcall_blacklist=NAME_init for each that is not needed, or a kernel that has it as a module",
        )
    if loaded := marked_by_name(facts.policy, facts.loaded - facts.built_in):
        yield note(
            "marked-loaded",
            f"{_named(loaded)} marked and loaded already, so that users need not ask for it",
            "'rmmod NAME' for each that is not needed; /etc/modules-load.d may say who wants it",
        )


def _named(modules: Mapping[str, bool]) -> str:
    """Those named in full first: they are what somebody had in mind."""
    names = sorted(modules, key=lambda name: not modules[name])
    return f"{join_names(names)} {'are' if len(names) > 1 else 'is'}"


def _of_line_disciplines(facts: Facts) -> Iterator[Problem]:
    policy = facts.policy
    if policy.settings.mode is not Mode.MARKED or not facts.ldisc_autoload:
        return
    mark = first_mark(policy, *_LDISC)
    if mark is None or mark.capability is None:
        yield note(
            "line-disciplines",
            "dev.tty.ldisc_autoload is 1 and no mark keeps line disciplines from users",
            "sysctl dev.tty.ldisc_autoload=0, in sysctl.d too, or a mark on tty-ldisc-*",
        )
