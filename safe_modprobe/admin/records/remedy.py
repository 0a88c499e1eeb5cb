"""The rule that lets one caller's refused request through, as a piece of a drop-in with its warnings. Pure."""

from collections.abc import Iterable

from safe_modprobe.admin.records.history import steady_unit
from safe_modprobe.capability import SYS_MODULE, Capability
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.log.report import barred, refused_modules, user_namespace
from safe_modprobe.model import BUILT_IN, Action, Caller, Rule, Verdict
from safe_modprobe.policy.text import rule_table

DYNAMIC = range(61184, 65520)
"""The uids of DynamicUser=, another service's tomorrow (systemd.exec(5))."""

_WIDTH = 116  # of a comment


class RuleSubject(NamedTuple):
    """Who a rule is for; every part that is there must match. No users: whoever runs in the unit."""

    unit: str | None = None
    users: frozenset[int] = frozenset()
    namespace: str | None = None
    known: bool = True
    capabilities: frozenset[Capability] | None = None


def subject_of(caller: Caller) -> RuleSubject:
    """A steady service and its users, or else the users; the real and the effective one, as a granting rule wants.

    Either namespace where none was recorded; of whom a kernel says nothing, only the power is known.
    """
    if not caller.known:
        return RuleSubject(known=False)
    if caller.uid is None:
        return RuleSubject(capabilities=frozenset({SYS_MODULE}))
    unit = steady_unit(caller.unit)
    users = frozenset({uid for uid in (caller.uid, caller.euid) if uid is not None})
    if unit is not None and any(uid in DYNAMIC for uid in users):
        users = frozenset()
    return RuleSubject(unit, users, user_namespace(caller))


def rule_for(for_whom: RuleSubject, modules: Iterable[str], reason: str = "") -> Rule:
    """The rule that allows just these modules to just these callers."""
    return Rule(
        BUILT_IN,
        Action.ALLOW,
        modules=tuple(map(_literal, sorted(modules))),
        users=for_whom.users or None,
        capabilities=for_whom.capabilities,
        units=None if for_whom.unit is None else (_literal(for_whom.unit),),
        user_namespace=for_whom.namespace,
        callers=None if for_whom.known else "unknown",
        reason=reason,
    )


def snippet(for_whom: RuleSubject, modules: Iterable[str]) -> str:
    """The rule as a piece of a drop-in, with a warning where it lets in more than it says."""
    rule = rule_for(for_whom, modules)
    return "".join(warnings(rule)) + rule_table(rule)


def remedy(verdict: Verdict) -> str | None:
    """The snippet that lets a verdict's request through; None where nothing was refused or no new rule can."""
    modules = refused_modules(verdict)
    return snippet(subject_of(verdict.caller), modules) if modules and not barred(verdict) else None


def warnings(rule: Rule) -> list[str]:
    """Comments on whom a rule lets in beside those that it names."""
    if rule.callers == "unknown":
        return comment(f"Anybody can be unknown, so this is for all users; {MODULES_LOAD}.")
    if rule.user_namespace == "other":
        return comment(_NAMESPACE)
    return comment(_ROOT) if rule.units is None and 0 in (rule.users or ()) else []


MODULES_LOAD = (
    "what everybody may have is better loaded at boot, by /etc/modules-load.d/site.conf, so that nobody has to ask"
)
_NAMESPACE = (
    "Any program of this user can become root of a user namespace, so this is for all of them. Never leave the users"
    ' out: user_namespace = "other" alone would be for everybody who can make one.'
)
_ROOT = (
    "Root without the capability is also the root of every container that shares the initial user namespace, so this is"
    " for all of those."
)


def comment(text: str) -> list[str]:
    """Lines of a comment of TOML. What came from outside has to be escaped, or it could end one."""
    lines, line = [], "#"
    for word in text.split(" "):
        if len(line) + len(word) >= _WIDTH and line != "#":
            lines.append(line + "\n")
            line = "#"
        line += f" {word}"
    return [*lines, line + "\n"]


def _literal(name: str) -> str:
    """A pattern that matches this name alone, see match.glob()."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
