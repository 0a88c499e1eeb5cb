"""The JSON schema of a drop-in, made of the very tables that parse it, for editors that know TOML.

Pure. It uses what all drafts from 4 to 2020-12 have in common, since editors differ. It knows less than the parser only
where one has to look elsewhere: at /etc/passwd and /etc/group, at the names of other rules, and at 1.0, which JSON
does not tell from 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from safe_modprobe.capability import NAMES
from safe_modprobe.model import BY_MARKER, UID_MAX
from safe_modprobe.policy import schema
from safe_modprobe.policy.schema import CHECK_PARTS, KEYS, NOT_CONDITIONS, Check

TABLES = {
    "settings": "The switches. The first file that sets a key wins.",
    "mark": "The policy's word on modules, over their own markers. The first mark that matches counts.",
    "call_site": "Which capability suffices for an alias, besides the one needed. The first that matches counts.",
    "rule": "Decides by itself: every key given must match, a list in any member. The first that matches counts.",
}

_MODULES = "Names of modules, as patterns: *, ? and [...]; - and _ are the same. Any module where the key is left out."
_ALIASES = "What the kernel asks for, such as 'net-pf-38' or 'fs-*', as patterns. Any alias where the key is left out."
_REASON = "Why the row is there: the log and explain repeat it."

DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    "settings": {
        "mode": "Who needs privilege. allowed: nobody, but rules count. marked: who asks for a module that its marker"
        " or a mark calls privileged. privileged: who asks for any that is not called unprivileged. disabled: nothing"
        " is loaded for anybody.",
        "mismatch": "What is done where privilege is needed and the caller has none that suffices.",
        "unknown_caller": "What a caller counts as whom no source could name.",
        "sources": "Where to learn who the caller is, in this order. kernel-args says the privilege and the real uid;"
        " what a rule asks for beside that comes from the next one that can say it.",
        "kernel_args": "always: this kernel always names unprivileged callers in its arguments, so their absence means"
        " root. Never on a stock kernel. optional: it means root where the kernel itself says so"
        " (kernel.modprobe_caller_args is 1).",
        "forward_kernel_args": "true: hand the kernel's arguments to finit_module(2) as well.",
        "trial": "true: nothing is refused, whatever mode, mismatch and rules say; what would be is let through and"
        " recorded as log.",
    },
    "mark": {
        "modules": _MODULES,
        "aliases": _ALIASES,
        "privileged": "true: CAP_SYS_MODULE is needed. A capability: that one. false: none. 'marker': what the module's"
        " own marker says.",
        "quiet": "true: a refusal for this mark's sake is not recorded.",
        "reason": _REASON,
    },
    "call_site": {
        "aliases": "What the kernel asks for there, as patterns.",
        "capability": "Who holds this one in the initial user namespace may have what is asked for.",
        "deputy": "true: a kernel thread asks there on somebody's behalf, and its own privilege says nothing.",
        "reason": _REASON,
    },
    "rule": {
        "name": "A name of its own, for people and the log.",
        "modules": _MODULES,
        "aliases": _ALIASES,
        "users": "Users, by their names in /etc/passwd or by number. allow and log ask for both the real and the"
        " effective one, deny for either. A user's subordinate ids (subuid(5)) are other users.",
        "groups": "Groups of the caller, by their names in /etc/group or by number. Whoever has subordinate ids can"
        " drop them, in a user namespace.",
        "capabilities": "Capabilities that the caller holds in the initial user namespace, any of them.",
        "units": "The caller's systemd unit, such as 'asterisk.service', as patterns.",
        "executables": "The caller's program, by its whole path without links, as patterns.",
        "call_sites": "The function of the kernel that asks, such as '__sock_create', as patterns.",
        "user_namespace": "Whether the caller is in the initial user namespace or in another one.",
        "no_new_privs": "Whether the caller gave up gaining privileges (prctl(2), PR_SET_NO_NEW_PRIVS).",
        "callers": "Whether anybody could say who the caller is.",
        "action": "What is done: allow, allow and say so loudly (log), or deny.",
        "quiet": "true: without a record in the log.",
        "reason": _REASON,
    },
}
"""A sentence for every key of schema.KEYS."""


def json_schema() -> dict[str, Any]:
    """The schema as JSON's own types."""
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
        "description": "A file of /etc/safe-modprobe/policy.d: the lowest number first, and the first match wins.",
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


# What Builder.mark(), .call_site() and .rule() ask of a row as a whole.
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

# By the parser's own functions, so that a key which gets another check gets another schema.
_LEAVES: Mapping[Check, Mapping[str, Any]] = {
    schema.flag: {"type": "boolean"},
    schema.string: _LINE,
    # Every [ has its ], as schema.pattern() finds it: no $, which some libraries take for "before a last newline".
    schema.pattern: {**_LINE, "minLength": 1, "pattern": r"^(?:[^\[]|\[(?:!.|[^!])[^\]]*\])+(?![\s\S])"},
    schema.capability: {"enum": list(NAMES)},
    schema.privilege: {"enum": [True, False, BY_MARKER, *NAMES]},
    schema.user: _ACCOUNT,
    schema.group: _ACCOUNT,
}


def _value(check: Check) -> dict[str, Any]:
    """The schema of what a check lets through."""
    if check in _LEAVES:
        return dict(_LEAVES[check])
    part = CHECK_PARTS[check]
    if isinstance(part, Sequence):
        return {"enum": [str(word) for word in part]}
    return {"type": "array", "minItems": 1, "items": _value(part)}
