"""Find the first row of the policy that matches. Pure."""

from safe_modprobe.capability import SYS_MODULE, holds
from safe_modprobe.model import Action, Caller, CallSite, Mark, Policy, Request, Rule


def glob(pattern: str, text: str) -> bool:
    """Return whether a pattern of glob(7) matches the whole text. A * matches any characters, newlines too."""
    if "?" not in pattern and "[" not in pattern:
        head, star, tail = pattern.partition("*")
        if not star:
            return text == pattern
        if "*" not in tail:
            return text.startswith(head) and text.endswith(tail) and len(text) >= len(head) + len(tail)
    from fnmatch import fnmatchcase  # slow, since it compiles the pattern; such patterns are rare

    return fnmatchcase(text, pattern)


def alias_glob(pattern: str, text: str) -> bool:
    """Match an alias or module name like glob(), with - as _ outside of brackets (libkmod's alias_normalize())."""
    return _matches_any((pattern,), normalize(text))


def normalize(name: str) -> str:
    """Return an alias or module name with every - as _, as libkmod compares them."""
    return name.replace("-", "_")


def _matches_any(patterns: tuple[str, ...], normal: str) -> bool:
    """Return whether alias_glob() holds for any pattern and a normalized name."""
    names, globs = _split_patterns(patterns)
    return normal in names or (bool(globs) and any(glob(pattern, normal) for pattern in globs))


_SPLIT_CACHE: dict[tuple[str, ...], tuple[frozenset[str], tuple[str, ...]]] = {}
_MAX_CACHED = 1024
"""Lists of patterns in the cache at most, which is more than a policy has."""


def _split_patterns(patterns: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return (plain names, globs) of some patterns, normalized.

    The result is cached, since a row may have hundreds of patterns and is matched against every step.
    """
    cached = _SPLIT_CACHE.get(patterns)
    if cached is None:
        names: list[str] = []
        globs: list[str] = []
        for pattern in patterns:
            (globs if "*" in pattern or "?" in pattern or "[" in pattern else names).append(normalize_pattern(pattern))
        if len(_SPLIT_CACHE) >= _MAX_CACHED:
            _SPLIT_CACHE.clear()
        cached = _SPLIT_CACHE[patterns] = frozenset(names), tuple(globs)
    return cached


def normalize_pattern(pattern: str) -> str:
    """Return a pattern of aliases or module names with - as _ outside of brackets."""
    if "[" not in pattern:
        return normalize(pattern)
    parts = pattern.split("[")
    for index, part in enumerate(parts):
        inside, bracket, outside = part.partition("]") if index else ("", "", part)
        parts[index] = inside + bracket + normalize(outside)
    return "[".join(parts)


def first_mark(policy: Policy, alias: str, module: str) -> Mark | None:
    """Return the first mark for a module that would be loaded for this alias."""
    alias, module = normalize(alias), normalize(module)
    for mark in policy.marks:
        if (not mark.modules or _matches_any(mark.modules, module)) and (
            not mark.aliases or _matches_any(mark.aliases, alias)
        ):
            return mark
    return None


def call_site(policy: Policy, alias: str) -> CallSite | None:
    """Return the first call site row for the alias."""
    alias = normalize(alias)
    for site in policy.call_sites:
        if _matches_any(site.aliases, alias):
            return site
    return None


def first_rule(policy: Policy, request: Request, caller: Caller, module: str) -> Rule | None:
    """Return the first rule for a module that would be loaded for this caller.

    With incomplete information about the caller a deny rule matches, and an allow or log rule does not.
    """
    alias, module = normalize(request.alias), normalize(module)
    for rule in policy.rules:
        if (rule.modules is None or _matches_any(rule.modules, module)) and matches_alias(rule, alias):
            matches = matches_caller(rule, caller)
            if matches or (matches is None and rule.action is Action.DENY):
                return rule
    return None


_BEYOND_KERNEL_ARGS = ("groups", "units", "executables", "call_sites", "user_namespace", "no_new_privs")


def keys_beyond_kernel_args(rule: Rule) -> list[str]:
    """Return the rule's keys that need more than a patched kernel's arguments (kernel_args.py).

    These arguments have the real uid and the call site's capability, which is enough for an allow rule. A deny rule
    also depends on the effective uid and on all other capabilities.
    """
    keys = [key for key in _BEYOND_KERNEL_ARGS if getattr(rule, key) is not None]
    if rule.action is Action.DENY:
        keys += ["users"] if rule.users is not None else []
        keys += ["capabilities"] if (rule.capabilities or frozenset()) - {SYS_MODULE} else []
    return keys


def matches_alias(rule: Rule, alias: str) -> bool:
    """Return whether the rule's `aliases`, if it has any, match a normalized alias."""
    return rule.aliases is None or _matches_any(rule.aliases, alias)


def matches_caller(rule: Rule, caller: Caller) -> bool | None:
    """Return whether all keys about the caller match; None if no key fails but some are undecided.

    For an unknown caller only `callers` can match. A rule with another key does not match, a deny rule either.
    """
    if rule.callers is not None and (rule.callers == "known") is not caller.known:
        return False
    if not caller.known:
        return all(key is None for key in (*_caller_keys(rule), rule.user_namespace, rule.no_new_privs))
    initial = None if rule.user_namespace is None else rule.user_namespace == "initial"
    answers = (
        _matches_users(rule, caller),
        _matches_groups(rule, caller),
        _matches_capabilities(rule, caller),
        _equals(initial, caller.initial_user_namespace),
        _equals(rule.no_new_privs, caller.no_new_privs),
        _matches_glob(rule.units, caller.unit, caller.seen),
        _matches_glob(rule.executables, caller.executable, caller.seen),
        _matches_call_site(rule.call_sites, caller.call_site, caller.seen),
    )
    return False if False in answers else None if None in answers else True


def _caller_keys(rule: Rule) -> tuple[object, ...]:
    return (rule.users, rule.groups, rule.capabilities, rule.units, rule.executables, rule.call_sites)


def _matches_users(rule: Rule, caller: Caller) -> bool | None:
    """Match both uids for an allow rule and either uid for a deny rule.

    So a set-user-ID program can neither borrow an allow rule nor escape a deny rule. If only the real uid is known,
    it is enough for an allow rule, since any task may make it its effective uid (setreuid(2)).
    """
    if rule.users is None:
        return True
    if rule.action is Action.DENY:
        either = {caller.uid, caller.euid}
        return True if either & rule.users else None if None in either else False
    return None if caller.uid is None else {caller.uid, caller.euid} - {None} <= rule.users


def _matches_groups(rule: Rule, caller: Caller) -> bool | None:
    if rule.groups is None:
        return True
    return None if caller.gids is None else bool(rule.groups & caller.gids)


def _matches_capabilities(rule: Rule, caller: Caller) -> bool | None:
    """Match capabilities that the caller holds in the initial user namespace.

    If the task was not inspected, CAP_SYS_MODULE counts as every capability, since its holder can gain the others.
    """
    if rule.capabilities is None:
        return True
    if caller.initial_user_namespace is False:
        return False
    any_of = rule.capabilities if caller.seen else {*rule.capabilities, SYS_MODULE}
    if any(holds(caller.capabilities, each) for each in any_of):
        return caller.initial_user_namespace
    return None if any(holds(caller.may_hold, each) for each in rule.capabilities) else False


def _equals(required: bool | None, found: bool | None) -> bool | None:
    return True if required is None else None if found is None else required is found


def _matches_glob(patterns: tuple[str, ...] | None, text: str | None, seen: bool) -> bool | None:
    if patterns is None:
        return True
    if text is None:
        return False if seen else None
    return any(glob(each, text) for each in patterns)


def _matches_call_site(patterns: tuple[str, ...] | None, site: str | None, seen: bool) -> bool | None:
    """Match `name` or `name [module]`, as in /proc/TID/stack; "" stands for an unreadable stack."""
    if patterns is not None and site == "":
        return None
    matches = _matches_glob(patterns, site, seen)
    return _matches_glob(patterns, site.partition(" ")[0], seen) if site is not None and not matches else matches
