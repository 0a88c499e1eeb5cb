"""Which row of the policy matches. First match wins."""

from safe_modprobe.capability import holds
from safe_modprobe.model import Action, Caller, CallSite, Mark, Policy, Request, Rule


def glob(pattern: str, text: str) -> bool:
    """glob(7) over the whole text, in which * matches anything, newlines too."""
    if "?" not in pattern and "[" not in pattern:
        head, star, tail = pattern.partition("*")
        if not star:
            return text == pattern
        if "*" not in tail:
            return text.startswith(head) and text.endswith(tail) and len(text) >= len(head) + len(tail)
    from fnmatch import fnmatchcase  # a rare kind of pattern, and it has to compile it

    return fnmatchcase(text, pattern)


def alias_glob(pattern: str, text: str) -> bool:
    """glob() for aliases and module names: - is _ outside of brackets, as in libkmod's alias_normalize()."""
    return _any_name((pattern,), _normal(text))


def _normal(name: str) -> str:
    return name.replace("-", "_")


def _any_name(patterns: tuple[str, ...], normal: str) -> bool:
    """alias_glob() for any of them; hundreds are tried for a request, so the name is normalized once."""
    for pattern in patterns:
        if "-" in pattern:
            pattern = normal_pattern(pattern)
        if glob(pattern, normal):
            return True
    return False


def normal_pattern(pattern: str) -> str:
    """A pattern of aliases or module names as alias_glob() reads it: - is _ outside of brackets."""
    if "[" not in pattern:
        return _normal(pattern)
    parts = pattern.split("[")
    for index, part in enumerate(parts):
        inside, bracket, outside = part.partition("]") if index else ("", "", part)
        parts[index] = inside + bracket + _normal(outside)
    return "[".join(parts)


def first_mark(policy: Policy, alias: str, module: str) -> Mark | None:
    """The mark for a module that would be loaded for this alias."""
    alias, module = _normal(alias), _normal(module)
    for mark in policy.marks:
        if (not mark.modules or _any_name(mark.modules, module)) and (
            not mark.aliases or _any_name(mark.aliases, alias)
        ):
            return mark
    return None


def call_site(policy: Policy, alias: str) -> CallSite | None:
    """The row that says which capability suffices for the alias, or that its asker is a deputy."""
    alias = _normal(alias)
    for site in policy.call_sites:
        if _any_name(site.aliases, alias):
            return site
    return None


def first_rule(policy: Policy, request: Request, caller: Caller, module: str) -> Rule | None:
    """The rule for a module that would be loaded for this caller."""
    alias, module = _normal(request.alias), _normal(module)
    for rule in policy.rules:
        if _matches_what(rule, alias, module) and _matches_who(rule, caller):
            return rule
    return None


def _matches_what(rule: Rule, alias: str, module: str) -> bool:
    return (rule.modules is None or _any_name(rule.modules, module)) and (
        rule.aliases is None or _any_name(rule.aliases, alias)
    )


def _matches_who(rule: Rule, caller: Caller) -> bool:
    if rule.callers is not None and (rule.callers == "known") is not caller.known:
        return False
    if not caller.known:
        # Whoever it is, no key about a person is known to match.
        return all(key is None for key in (*_who(rule), rule.user_namespace, rule.no_new_privs))
    if rule.users is not None and not _matches_users(rule, rule.users, caller):
        return False
    if rule.groups is not None and not rule.groups & caller.gids:
        return False
    if rule.capabilities is not None and not (
        caller.initial_user_namespace and any(holds(caller.capabilities, each) for each in rule.capabilities)
    ):
        return False
    if rule.user_namespace is not None and ((rule.user_namespace == "initial") is not caller.initial_user_namespace):
        return False
    if rule.no_new_privs is not None and rule.no_new_privs is not caller.no_new_privs:
        return False
    return (
        _any(rule.units, caller.unit)
        and _any(rule.executables, caller.executable)
        and _any_site(rule.call_sites, caller.call_site)
    )


def _who(rule: Rule) -> tuple[object, ...]:
    return (rule.users, rule.groups, rule.capabilities, rule.units, rule.executables, rule.call_sites)


def _matches_users(rule: Rule, users: frozenset[int], caller: Caller) -> bool:
    """A set-user-ID program can neither borrow a grant nor shed a refusal: both uids, or either."""
    both = {caller.uid, caller.euid}
    return bool(both & users) if rule.action is Action.DENY else both <= users


def _any(patterns: tuple[str, ...] | None, text: str | None) -> bool:
    return patterns is None or (text is not None and any(glob(each, text) for each in patterns))


def _any_site(patterns: tuple[str, ...] | None, site: str | None) -> bool:
    """`name` or `name [module]`, as the kernel's stack has it."""
    return _any(patterns, site) or (site is not None and _any(patterns, site.partition(" ")[0]))
