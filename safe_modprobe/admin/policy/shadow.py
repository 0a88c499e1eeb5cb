"""Find rows that have no effect: they match nothing, or earlier rows match everything they match.

Pure. A reported row certainly has no effect; a row that is not reported may have none either.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import TypeAlias

from safe_modprobe.admin.policy.globs import PatternSet, is_literal, literal_prefix, matches_nothing, overlap
from safe_modprobe.capability import SYS_MODULE
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Action, CallSite, Mark, Policy, Rule
from safe_modprobe.policy.match import normalize_pattern

NO_DASH = "-"
"""A character that no normalised alias or module name contains: match.py replaces - by _."""

Row: TypeAlias = Mark | CallSite | Rule


class Shadow(NamedTuple):
    """Why a row has no effect. All fields are empty if it may have one.

    `never`: why it matches no request; a deny rule may still match a caller whose details are missing.
    `before`: the earlier rows that together match everything it matches.
    `parts`: (key, pattern, earlier rows) for single patterns, when other patterns of the row still have an effect.
    `redundant`: why the result would be the same without the row.
    """

    never: str = ""
    before: tuple[Row, ...] = ()
    parts: tuple[tuple[str, str, tuple[Row, ...]], ...] = ()
    redundant: str = ""


def find_shadows(policy: Policy) -> Iterator[tuple[Row, Shadow]]:
    """Yield every row with its Shadow: the marks, the call sites, the rules."""
    every: tuple[Sequence[Row], ...] = (policy.marks, policy.call_sites, policy.rules)
    for rows in every:
        earlier: list[_Scope] = []
        for index, row in enumerate(rows):
            if never := _never(row):
                yield row, Shadow(never)
                continue
            scope = _scope_of(row)
            shadow = _shadow_of(scope, earlier)
            yield row, shadow if shadow.before else shadow._replace(redundant=_redundant(row, rows[index + 1 :]))
            earlier.append(scope)


def impossible(key: str, pattern: str) -> str:
    """Return why the pattern of this key can match nothing; "" if it may match."""
    names = key in ("modules", "aliases")
    if matches_nothing(normalize_pattern(pattern) if names else pattern, NO_DASH if names else ""):
        return "no possible name matches this pattern"
    if key == "modules" and matches_nothing(normalize_pattern(pattern), f"{NO_DASH}/."):
        return "a module's name contains no path and no .ko"
    if key == "units" and not overlap(pattern, "*.service") and not overlap(pattern, "*.scope"):
        return "a unit's name ends in .service or .scope"
    # The kernel puts "(unreachable)" before a path that is no longer mounted (d_path(), fs/d_path.c).
    if key == "executables" and literal_prefix(pattern)[:1] not in ("", "/", "("):
        return "a program's path starts with /"
    return ""


def patterns_of(row: Row) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each key of the row that has patterns, and its patterns."""
    for key in ("modules", "aliases", "units", "executables", "call_sites"):
        if patterns := getattr(row, key, None):
            yield key, patterns


def _never(row: Row) -> str:
    for key, patterns in patterns_of(row):
        reasons = [impossible(key, each) for each in patterns]
        if all(reasons):
            return f"{', '.join(map(ascii, patterns))} in {key!r}: {reasons[0]}"
    if not isinstance(row, Rule):
        return ""
    if row.callers == "unknown" and (keys := [key for key in _CALLER_KEYS if getattr(row, key) is not None]):
        return f"callers = 'unknown' matches unidentified callers, and {keys[0]!r} needs an identified one"
    if row.capabilities is not None and row.user_namespace == "other":
        return "'capabilities' count only in the initial user namespace, and user_namespace = 'other' excludes it"
    return ""


_CALLER_KEYS = (
    "users",
    "groups",
    "capabilities",
    "units",
    "executables",
    "call_sites",
    "user_namespace",
    "no_new_privs",
)
"""The keys of a rule that an unknown caller never matches."""


class _Scope(NamedTuple):
    """A row, and the requests that it applies to: each of its modules by each of its aliases."""

    row: Row
    modules: PatternSet
    aliases: PatternSet


def _scope_of(row: Row) -> _Scope:
    return _Scope(row, _normal(getattr(row, "modules", None)), _normal(row.aliases))


def _normal(patterns: tuple[str, ...] | None) -> PatternSet:
    every = map(normalize_pattern, patterns or "*")
    return PatternSet([each for each in every if not matches_nothing(each, NO_DASH)], NO_DASH)


def _shadow_of(scope: _Scope, earlier: Sequence[_Scope]) -> Shadow:
    """Return which part of this scope the earlier rows cover."""
    row = scope.row
    if isinstance(row, Rule):
        earlier = [each for each in earlier if isinstance(each.row, Rule) and _covers_callers(each.row, row)]
    modules, aliases = scope.modules.patterns, scope.aliases.patterns
    covering = {pair: _covering(earlier, *pair) for pair in product(modules, aliases)}

    def before(pairs: Iterable[tuple[str, str]]) -> tuple[Row, ...]:
        every = [covering[pair] for pair in pairs]
        found = {id(each) for rows in every for each in rows} if all(every) else set()
        return tuple(each.row for each in earlier if id(each.row) in found)

    if whole := before(covering):
        return Shadow(before=whole)
    parts = [("modules", each, before(product([each], aliases))) for each in modules]
    parts += [("aliases", each, before(product(modules, [each]))) for each in aliases]
    return Shadow(parts=tuple((key, _as_written(row, key, each), rows) for key, each, rows in parts if rows))


def _as_written(row: Row, key: str, normal: str) -> str:
    """Return the row's own spelling of a normalised pattern."""
    return next(
        pattern
        for each, patterns in patterns_of(row)
        if each == key
        for pattern in patterns
        if normalize_pattern(pattern) == normal
    )


def _covering(earlier: Sequence[_Scope], module: str, alias: str) -> list[Row]:
    """Return rows that match every request for this module pattern by this alias pattern; [] if none were found.

    Tries one row alone, then rows that each cover the module and together the alias, then the reverse. Other
    combinations are not tried.
    """
    of_module = [each for each in earlier if each.modules.covers(module)]
    for each in of_module:
        if each.aliases.covers(alias):
            return [each.row]
    found = [] if is_literal(alias) else _together(of_module, lambda each: each.aliases, alias)
    if found or is_literal(module):  # several rows cover a literal only if one of them does
        return found
    of_alias = [each for each in earlier if each.aliases.covers(alias)]
    return _together(of_alias, lambda each: each.modules, module)


def _together(rows: Sequence[_Scope], patterns: Callable[[_Scope], PatternSet], narrow: str) -> list[Row]:
    """Return a minimal set of the rows that together match all that `narrow` matches; [] if all rows do not."""

    def enough(some: Sequence[_Scope]) -> bool:
        return PatternSet((pattern for each in some for pattern in patterns(each).patterns), NO_DASH).covers(narrow)

    needed = [each for each in rows if any(overlap(pattern, narrow, NO_DASH) for pattern in patterns(each).patterns)]
    if not enough(needed):
        return []
    for each in tuple(needed):
        fewer = [other for other in needed if other is not each]
        if enough(fewer):
            needed = fewer
    return [each.row for each in needed]


def _covers_callers(earlier: Rule, rule: Rule) -> bool:
    """Whether the earlier rule matches every caller that this rule matches."""
    caller_keys = [key for key in _CALLER_KEYS if getattr(rule, key) is not None]
    if earlier.callers is not None and earlier.callers != (rule.callers or ("known" if caller_keys else None)):
        return False
    grants_before = rule.action is Action.DENY and earlier.action is not Action.DENY
    if grants_before and any(getattr(earlier, key) is not None for key in _CALLER_KEYS):
        # In match.py a deny rule also matches when details are missing, and it matches either uid. An allow rule
        # needs both.
        return False
    # A capability counts only in the initial user namespace.
    space = rule.user_namespace or ("initial" if rule.capabilities is not None else None)
    return (
        earlier.user_namespace in (None, space)
        and earlier.no_new_privs in (None, rule.no_new_privs)
        and _is_subset(rule.users, earlier.users)
        and _is_subset(rule.groups, earlier.groups)
        and _is_subset(rule.capabilities, earlier.capabilities)
        and _covers_patterns(earlier.units, rule.units)
        and _covers_patterns(earlier.executables, rule.executables)
        and _covers_patterns(earlier.call_sites, rule.call_sites)
    )


def _is_subset(numbers: frozenset[int] | None, of: frozenset[int] | None) -> bool:
    return of is None or (numbers is not None and numbers <= of)


def _covers_patterns(wide: tuple[str, ...] | None, narrow: tuple[str, ...] | None) -> bool:
    return wide is None or (narrow is not None and all(PatternSet(wide).covers(each) for each in narrow))


def _redundant(row: Row, later: Sequence[Row]) -> str:
    """Return why the row changes nothing; "" if it may."""
    if (
        not isinstance(row, Rule)
        or row.action is not Action.ALLOW
        or row.quiet
        or row.capabilities != frozenset({SYS_MODULE})
    ):
        return ""
    if any(
        isinstance(each, Rule) and _does_more_than_allow(each) and _scopes_overlap(_scope_of(row), _scope_of(each))
        for each in later
    ):
        return ""
    return "it allows nothing new: CAP_SYS_MODULE suffices for any module, and no later rule changes that"


def _does_more_than_allow(rule: Rule) -> bool:
    """Whether the rule refuses, logs or suppresses the record."""
    return rule.action is not Action.ALLOW or rule.quiet


def _scopes_overlap(one: _Scope, other: _Scope) -> bool:
    """Whether both may apply to the same request."""
    return all(
        any(overlap(a, b, NO_DASH) for a, b in product(some.patterns, others.patterns))
        for some, others in ((one.modules, other.modules), (one.aliases, other.aliases))
    )
