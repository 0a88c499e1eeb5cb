"""Write a policy, or the rule that would allow a request, as TOML. Pure."""

from _collections_abc import Iterable, Sequence

from safe_modprobe.capability import SYS_MODULE, Capability, name_of
from safe_modprobe.light_types import TYPE_CHECKING
from safe_modprobe.model import BY_MARKER, Caller, Policy, Rule, Settings

if TYPE_CHECKING:
    from typing import Any


def rule_line(modules: Sequence[str], caller: Caller) -> str:
    """Return a whole drop-in of one line that allows these modules to this caller."""
    uids = sorted({uid for uid in (caller.uid, caller.euid) if uid is not None})
    without_uid = 'capabilities = ["CAP_SYS_MODULE"]' if caller.known else 'callers = "unknown"'
    condition = f"users = {_value(uids)}" if uids else without_uid
    return f'rule = [{{ modules = {_value(list(modules))}, {condition}, action = "allow" }}]'


def rule_table(rule: Rule) -> str:
    """Return a rule as a `[[rule]]` table."""
    return "[[rule]]\n" + _pairs(rule._asdict() | {"quiet": rule.quiet or None})


def dump(policy: Policy) -> str:
    """Return the whole policy as one drop-in with all settings. Parsing it gives the same rows, but other origins."""
    parts = ["[settings]\n" + _pairs(_settings(policy.settings))]
    for mark in policy.marks:
        privileged = BY_MARKER if mark.by_marker else _privileged(mark.capability)
        row = mark._asdict() | {"privileged": privileged, "capability": None, "by_marker": None}
        row["quiet"] = mark.quiet or None
        parts.append("[[mark]]\n" + _pairs(row))
    parts += [
        "[[call_site]]\n" + _pairs(site._asdict() | {"deputy": site.deputy or None}) for site in policy.call_sites
    ]
    parts += [rule_table(rule) for rule in policy.rules]
    return "\n".join(parts)


def _settings(settings: Settings) -> "dict[str, Any]":
    return {
        "mode": settings.mode,
        "mismatch": settings.mismatch,
        "unknown_caller": "privileged" if settings.unknown_caller_privileged else "unprivileged",
        "sources": settings.sources,
        "kernel_args": "always" if settings.kernel_args_always else "optional",
        "forward_kernel_args": settings.forward_kernel_args,
        "trial": settings.trial,
    }


def _privileged(capability: Capability | None) -> bool | str:
    if capability is None:
        return False
    return True if capability == SYS_MODULE else name_of(capability)


def _pairs(row: "dict[str, Any]") -> str:
    """Return `key = value` lines, without the keys that have no value."""
    lines = []
    for key, value in row.items():
        if key == "origin" or value is None or value == "" or value == ():
            continue
        if key == "capability":
            value = name_of(value)
        elif key == "capabilities":
            value = [name_of(each) for each in sorted(value)]
        lines.append(f"{key} = {_value(value)}\n")
    return "".join(lines)


def _value(value: "Any") -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(_char(char) for char in value) + '"'
    return f"[{', '.join(map(_value, _ordered(value)))}]"


def _ordered(values: "Iterable[Any]") -> "list[Any]":
    return sorted(values) if isinstance(values, frozenset) else list(values)


def _char(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return f"\\u{ord(char):04x}" if char < " " or char == "\x7f" else char
