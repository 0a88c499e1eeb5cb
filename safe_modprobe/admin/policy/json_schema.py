"""The JSON schema of a drop-in, for editors that know TOML. It is built from the tables of the parser. Pure.

It uses only what all drafts from 4 to 2020-12 share, since editors differ. It accepts three things that the parser
rejects: unknown names of accounts, duplicate names of rules, and 1.0, which JSON does not distinguish from 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from safe_modprobe.capability import NAMES
from safe_modprobe.model import BY_MARKER, UID_MAX
from safe_modprobe.policy import schema
from safe_modprobe.policy.schema import CHECK_PARTS, KEYS, NOT_CONDITIONS, Check

TABLES = {
    "settings": "General settings. The first file that sets a key wins.",
    "mark": "Whether modules need privilege; overrides their own markers. The first mark that matches counts.",
    "call_site": "A further capability that suffices for an alias. The first call site that matches counts.",
    "rule": "Decides a load. All keys must match, a list by one of its members. The first rule that matches counts.",
}

_MODULES = "Module names, as patterns with *, ? and [...]; - equals _. Without this key, any module matches."
_ALIASES = (
    "Aliases that the kernel requests, such as 'net-pf-38' or 'fs-*', as patterns. Without it, any alias matches."
)
_REASON = "Why the row exists. The log and 'explain' repeat it."

DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    "settings": {
        "mode": "Which modules need privilege. allowed: none, only rules refuse. marked: those that a marker or a mark"
        " calls privileged. privileged: all except those called unprivileged. disabled: every load is refused.",
        "mismatch": "The action when a module needs privilege and the caller has no capability that suffices.",
        "unknown_caller": "How to treat a caller that no source could identify.",
        "sources": "How to identify the caller, in this order. kernel-args gives the privilege and the real uid; other"
        " details that a rule needs come from the next source that has them.",
        "kernel_args": "always: this kernel always names unprivileged callers in its arguments, so without them"
        " the caller is root. Do not use it on a stock kernel. optional: the caller is root only if the kernel says so"
        " (kernel.modprobe_caller_args is 1).",
        "forward_kernel_args": "true: pass the kernel's arguments on to finit_module(2).",
        "trial": "true: nothing is refused. A load that mode, mismatch or rules would refuse is allowed and recorded as"
        " log.",
    },
    "mark": {
        "modules": _MODULES,
        "aliases": _ALIASES,
        "privileged": "true: needs CAP_SYS_MODULE. A capability: needs that one. false: needs none. 'marker': its"
        " own marker decides.",
        "quiet": "true: a refusal because of this mark is not recorded.",
        "reason": _REASON,
    },
    "call_site": {
        "aliases": "Aliases that the kernel requests there, as patterns.",
        "capability": "This capability in the initial user namespace suffices for the request.",
        "deputy": "true: a kernel thread makes this request for another task, so its own privilege does not count.",
        "reason": _REASON,
    },
    "rule": {
        "name": "A unique name, which the log shows.",
        "modules": _MODULES,
        "aliases": _ALIASES,
        "users": "Users, by name in /etc/passwd or by uid. allow and log need both the real and the effective uid to"
        " match; deny needs one of them. A user's subordinate ids (subuid(5)) are other users.",
        "groups": "Groups of the caller, by name in /etc/group or by gid. A user with subordinate ids can drop groups"
        " in a user namespace.",
        "capabilities": "Capabilities in the initial user namespace. The caller must hold one of them.",
        "units": "The caller's systemd unit, such as 'asterisk.service', as patterns.",
        "executables": "The absolute path of the caller's program, with links resolved, as patterns.",
        "call_sites": "The kernel function that makes the request, such as '__sock_create', as patterns.",
        "user_namespace": "Whether the caller is in the initial user namespace or in another one.",
        "no_new_privs": "Whether the caller has set PR_SET_NO_NEW_PRIVS (prctl(2)).",
        "callers": "Whether a source could identify the caller.",
        "action": "allow, log (allow with a prominent record), or deny.",
        "quiet": "true: write no record to the log.",
        "reason": _REASON,
    },
}
"""A description of every key of schema.KEYS. The manual page shows it too."""


def json_schema() -> dict[str, Any]:
    """Return the schema as dicts, lists and strings, ready for json.dump()."""
    properties: dict[str, Any] = {}
    for table, about in TABLES.items():
        row = _row(table)
        properties[table] = (
            {"description": about, **row}
            if table == "settings"
            else {"description": about, "type": "array", "items": row}
        )
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A drop-in of safe-modprobe's policy",
        "description": "A file of /etc/safe-modprobe/policy.d. The lowest number comes first; the first match wins.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _row(table: str) -> dict[str, Any]:
    checks = KEYS[table]
    return {
        "type": "object",
        "properties": {key: {"description": DESCRIPTIONS[table][key], **_value(checks[key])} for key in checks},
        "additionalProperties": False,
        **_WHOLE.get(table, {}),
    }


# What Builder.mark(), .call_site() and .rule() require of a row as a whole.
_WHOLE: Mapping[str, Mapping[str, Any]] = {
    "mark": {"required": ["privileged"], "anyOf": [{"required": ["modules"]}, {"required": ["aliases"]}]},
    "call_site": {
        "required": ["aliases"],
        "oneOf": [
            {"required": ["capability"]},
            {"required": ["deputy"], "properties": {"deputy": {"enum": [True]}}},
        ],
    },
    "rule": {
        "required": ["action"],
        "anyOf": [{"required": [key]} for key in KEYS["rule"] if key not in NOT_CONDITIONS],
    },
}

_LINE = {"type": "string", "not": {"pattern": r"[\x00-\x1f\x7f]"}}
_ACCOUNT = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": UID_MAX}, {**_LINE, "minLength": 1}]}

# The keys are the parser's own functions, so that a changed check changes the schema too.
_LEAVES: Mapping[Check, Mapping[str, Any]] = {
    schema.flag: {"type": "boolean"},
    schema.string: _LINE,
    # Every [ has its ], as in schema.pattern(). No $, because in some libraries it matches before a final newline.
    schema.pattern: {**_LINE, "minLength": 1, "pattern": r"^(?:[^\[]|\[(?:!.|[^!])[^\]]*\])+(?![\s\S])"},
    schema.capability: {"enum": list(NAMES)},
    schema.privilege: {"enum": [True, False, BY_MARKER, *NAMES]},
    schema.user: _ACCOUNT,
    schema.group: _ACCOUNT,
}


def _value(check: Check) -> dict[str, Any]:
    """Return the schema of the values that a check accepts."""
    if check in _LEAVES:
        return dict(_LEAVES[check])
    part = CHECK_PARTS[check]
    if isinstance(part, Sequence):
        return {"enum": [str(word) for word in part]}
    return {"type": "array", "minItems": 1, "items": _value(part)}
