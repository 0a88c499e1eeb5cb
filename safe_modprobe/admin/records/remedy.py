"""Build the rule that would allow a refused request, as text for a drop-in with warnings. Pure."""

from collections.abc import Iterable

from safe_modprobe.admin.records.history import steady_unit
from safe_modprobe.capability import SYS_MODULE, Capability
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.log.report import barred, refused_modules, user_namespace
from safe_modprobe.model import BUILT_IN, Action, Caller, Rule, Verdict
from safe_modprobe.policy.text import rule_table

DYNAMIC = range(61184, 65520)
"""Uids of DynamicUser= (systemd.exec(5)). systemd may later give one to another service."""

_COMMENT_WIDTH = 116


class RuleSubject(NamedTuple):
    """The callers that a rule names. All given parts must match; without users, every user of the unit matches."""

    unit: str | None = None
    users: frozenset[int] = frozenset()
    namespace: str | None = None
    known: bool = True
    capabilities: frozenset[Capability] | None = None


def subject_of(caller: Caller) -> RuleSubject:
    """Return what a rule for this caller must name: its permanent service if any, and its real and effective uid.

    A missing uid means that the kernel's silence identified the caller, so only CAP_SYS_MODULE is known. A missing
    namespace matches both.
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


def rule_for(subject: RuleSubject, modules: Iterable[str], reason: str = "") -> Rule:
    """Return the rule that allows exactly these modules to exactly these callers."""
    return Rule(
        BUILT_IN,
        Action.ALLOW,
        modules=tuple(map(_literal, sorted(modules))),
        users=subject.users or None,
        capabilities=subject.capabilities,
        units=None if subject.unit is None else (_literal(subject.unit),),
        user_namespace=subject.namespace,
        callers=None if subject.known else "unknown",
        reason=reason,
    )


def snippet(subject: RuleSubject, modules: Iterable[str]) -> str:
    """Return the rule as TOML, with a warning if it covers more callers than it names."""
    rule = rule_for(subject, modules)
    return "".join(warnings(rule)) + rule_table(rule)


def remedy(verdict: Verdict) -> str | None:
    """Return the snippet that would allow the request, or None if nothing was refused or no new rule can help."""
    modules = refused_modules(verdict)
    return snippet(subject_of(verdict.caller), modules) if modules and not barred(verdict) else None


def warnings(rule: Rule) -> list[str]:
    """Return comments about callers that the rule covers besides those it names."""
    if rule.callers == "unknown":
        return comment(f"Any caller can become unknown, so this rule covers all users; instead, {MODULES_LOAD}.")
    if rule.user_namespace == "other":
        return comment(_NAMESPACE)
    return comment(_ROOT) if rule.units is None and 0 in (rule.users or ()) else []


MODULES_LOAD = "load the module at boot with /etc/modules-load.d/site.conf if everyone may use it"
_NAMESPACE = (
    "Any program of this user can become root of a user namespace, so this rule covers all of them. Keep the key users:"
    ' user_namespace = "other" alone covers every user who can create a user namespace.'
)
_ROOT = (
    "Root without the capability is also the root of every container that shares the initial user namespace, so this"
    " rule covers all of those."
)


def comment(text: str) -> list[str]:
    """Wrap text into TOML comment lines. The caller must escape untrusted text, or a newline could end the comment."""
    lines, line = [], "#"
    for word in text.split(" "):
        if len(line) + len(word) >= _COMMENT_WIDTH and line != "#":
            lines.append(line + "\n")
            line = "#"
        line += f" {word}"
    return [*lines, line + "\n"]


def _literal(name: str) -> str:
    """Return a pattern that matches only this name (match.glob())."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
