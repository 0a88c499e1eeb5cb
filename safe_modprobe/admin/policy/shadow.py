"""Which rows of a policy can decide anything: some match nothing, to some earlier rows leave nothing.

Pure, and for the desk. What is claimed is certain; of a row about which nothing is said, nothing is known.
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
"""What no alias and no module's name holds, as match.py reads them."""

Row: TypeAlias = Mark | CallSite | Rule


class Shadow(NamedTuple):
    """Why a row decides nothing; all empty where it may.

    `never`: it matches no request of anybody, unless in doubt, where it refuses somebody of whom too little is known.
    `before`: the earlier rows that match whatever it does. `parts`: the same of single patterns, where something is
    left to the row: the key, the pattern, the rows. `moot`: it says what would happen without it.
    """

    never: str = ""
    before: tuple[Row, ...] = ()
    parts: tuple[tuple[str, str, tuple[Row, ...]], ...] = ()
    moot: str = ""


def find_shadows(policy: Policy) -> Iterator[tuple[Row, Shadow]]:
    """Every row: the marks, the call sites, the rules."""
    every: tuple[Sequence[Row], ...] = (policy.marks, policy.call_sites, policy.rules)
    for rows in every:
        earlier: list[_Asked] = []
        for index, row in enumerate(rows):
            if never := _never(row):
                yield row, Shadow(never)
                continue
            asked = _asked(row)
            shadow = _earlier(earlier, asked)
            yield row, shadow if shadow.before else shadow._replace(moot=_moot(row, rows[index + 1 :]))
            earlier.append(asked)


def impossible(key: str, pattern: str) -> str:
    """Why the pattern of this key matches nothing at all; "" where it may match."""
    names = key in ("modules", "aliases")
    if matches_nothing(normalize_pattern(pattern) if names else pattern, NO_DASH if names else ""):
        return "no name is like that"
    if key == "modules" and matches_nothing(normalize_pattern(pattern), f"{NO_DASH}/."):
        return "a module's name has no folder and no .ko"
    if key == "units" and not overlap(pattern, "*.service") and not overlap(pattern, "*.scope"):
        return "a unit's name ends in .service or .scope"
    # The kernel's "(unreachable)" stands before what is mounted nowhere any more.
    if key == "executables" and literal_prefix(pattern)[:1] not in ("", "/", "("):
        return "a program's path starts with /"
    return ""


def patterns_of(row: Row) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every key of the row that has patterns, and these."""
    for key in ("modules", "aliases", "units", "executables", "call_sites"):
        if patterns := getattr(row, key, None):
            yield key, patterns


def _never(row: Row) -> str:
    for key, patterns in patterns_of(row):
        whys = [impossible(key, each) for each in patterns]
        if all(whys):
            return f"{', '.join(map(ascii, patterns))} in {key!r}: {whys[0]}"
    if not isinstance(row, Rule):
        return ""
    if row.callers == "unknown" and (keys := [key for key in _ABOUT_PEOPLE if getattr(row, key) is not None]):
        return f"callers = 'unknown' is who nobody knows anything about, and it asks for {keys[0]!r}"
    if row.capabilities is not None and row.user_namespace == "other":
        return "'capabilities' count in the initial user namespace only, and user_namespace = 'other' is outside of it"
    return ""


_ABOUT_PEOPLE = (
    "users",
    "groups",
    "capabilities",
    "units",
    "executables",
    "call_sites",
    "user_namespace",
    "no_new_privs",
)
"""The keys of a rule that no unknown caller matches."""


class _Asked(NamedTuple):
    """A row, and the requests that it is for: any of its modules by any of its aliases."""

    row: Row
    modules: PatternSet
    aliases: PatternSet


def _asked(row: Row) -> _Asked:
    return _Asked(row, _normal(getattr(row, "modules", None)), _normal(row.aliases))


def _normal(patterns: tuple[str, ...] | None) -> PatternSet:
    every = map(normalize_pattern, patterns or "*")
    return PatternSet([each for each in every if not matches_nothing(each, NO_DASH)], NO_DASH)


def _earlier(earlier: Sequence[_Asked], asked: _Asked) -> Shadow:
    """What the earlier rows take of all that is asked."""
    row = asked.row
    if isinstance(row, Rule):
        earlier = [each for each in earlier if isinstance(each.row, Rule) and _for_all_callers_of(row, each.row)]
    modules, aliases = asked.modules.patterns, asked.aliases.patterns
    taken = {pair: _covering(earlier, *pair) for pair in product(modules, aliases)}

    def before(pairs: Iterable[tuple[str, str]]) -> tuple[Row, ...]:
        every = [taken[pair] for pair in pairs]
        found = {id(each) for rows in every for each in rows} if all(every) else set()
        return tuple(each.row for each in earlier if id(each.row) in found)

    if whole := before(taken):
        return Shadow(before=whole)
    parts = [("modules", each, before(product([each], aliases))) for each in modules]
    parts += [("aliases", each, before(product(modules, [each]))) for each in aliases]
    return Shadow(parts=tuple((key, _written(row, key, each), rows) for key, each, rows in parts if rows))


def _written(row: Row, key: str, normal: str) -> str:
    """The pattern as it stands in the row."""
    return next(
        pattern
        for each, patterns in patterns_of(row)
        if each == key
        for pattern in patterns
        if normalize_pattern(pattern) == normal
    )


def _covering(earlier: Sequence[_Asked], module: str, alias: str) -> list[Row]:
    """Rows that match whatever these two patterns do; [] where it takes more to see that than is done here.

    One row; or several that take the module whole and the alias together; or the other way round.
    """
    of_module = [each for each in earlier if each.modules.covers(module)]
    for each in of_module:
        if each.aliases.covers(alias):
            return [each.row]
    found = [] if is_literal(alias) else _together(of_module, lambda each: each.aliases, alias)
    if found or is_literal(module):  # which several match only where one alone does
        return found
    of_alias = [each for each in earlier if each.aliases.covers(alias)]
    return _together(of_alias, lambda each: each.modules, module)


def _together(rows: Sequence[_Asked], patterns: Callable[[_Asked], PatternSet], narrow: str) -> list[Row]:
    """Those of the rows that it takes to match all that the pattern does; [] where all of them do not."""

    def enough(some: Sequence[_Asked]) -> bool:
        return PatternSet((pattern for each in some for pattern in patterns(each).patterns), NO_DASH).covers(narrow)

    needed = [each for each in rows if any(overlap(pattern, narrow, NO_DASH) for pattern in patterns(each).patterns)]
    if not enough(needed):
        return []
    for each in tuple(needed):
        fewer = [other for other in needed if other is not each]
        if enough(fewer):
            needed = fewer
    return [each.row for each in needed]


def _for_all_callers_of(rule: Rule, earlier: Rule) -> bool:
    """Whether the earlier rule's conditions on the caller hold for every caller of this rule's."""
    people = [key for key in _ABOUT_PEOPLE if getattr(rule, key) is not None]
    if earlier.callers is not None and earlier.callers != (rule.callers or ("known" if people else None)):
        return False
    grants_before = rule.action is Action.DENY and earlier.action is not Action.DENY
    if grants_before and any(getattr(earlier, key) is not None for key in _ABOUT_PEOPLE):
        # As match.py has it: a refusal is for whoever may be meant as well, and it takes either uid.
        return False
    # A capability is only held in the initial user namespace.
    space = rule.user_namespace or ("initial" if rule.capabilities is not None else None)
    return (
        earlier.user_namespace in (None, space)
        and earlier.no_new_privs in (None, rule.no_new_privs)
        and _members(rule.users, earlier.users)
        and _members(rule.groups, earlier.groups)
        and _members(rule.capabilities, earlier.capabilities)
        and _patterns(rule.units, earlier.units)
        and _patterns(rule.executables, earlier.executables)
        and _patterns(rule.call_sites, earlier.call_sites)
    )


def _members(some: frozenset[int] | None, of: frozenset[int] | None) -> bool:
    return of is None or (some is not None and some <= of)


def _patterns(some: tuple[str, ...] | None, of: tuple[str, ...] | None) -> bool:
    return of is None or (some is not None and all(PatternSet(of).covers(each) for each in some))


def _moot(row: Row, later: Sequence[Row]) -> str:
    """Why the row changes nothing."""
    if (
        not isinstance(row, Rule)
        or row.action is not Action.ALLOW
        or row.quiet
        or row.capabilities != frozenset({SYS_MODULE})
    ):
        return ""
    if any(isinstance(each, Rule) and _differs(each) and _meets(_asked(row), _asked(each)) for each in later):
        return ""
    return "it allows nothing new: who holds CAP_SYS_MODULE may have any module, and no later rule says otherwise"


def _differs(rule: Rule) -> bool:
    """Whether it does anything but let through, and say so."""
    return rule.action is not Action.ALLOW or rule.quiet


def _meets(one: _Asked, other: _Asked) -> bool:
    """Whether both may be for one request."""
    return all(
        any(overlap(a, b, NO_DASH) for a, b in product(mine.patterns, its.patterns))
        for mine, its in ((one.modules, other.modules), (one.aliases, other.aliases))
    )
