"""Compare the names in a policy's rows with the modules, accounts, units and programs of a machine.

Pure: the caller hands in the machine's names as Facts. A fact that is None is unknown, and gives no finding.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from safe_modprobe.admin.policy.findings import Finding, Place, Severity
from safe_modprobe.admin.policy.globs import PatternIndex, is_literal, literal_prefix
from safe_modprobe.admin.policy.sentence import join_names
from safe_modprobe.admin.policy.shadow import NO_DASH, Row, impossible
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Action, CallSite, Mark, Policy, Rule
from safe_modprobe.policy.match import alias_glob, glob, normalize_pattern


class NamesInPolicy(NamedTuple):
    """Names in a policy that must be looked up one by one: uids, gids, and paths of programs."""

    users: frozenset[int]
    groups: frozenset[int]
    programs: frozenset[str]


class Facts(NamedTuple):
    """The names of a machine. Module names and alias patterns are normalised as in match.py: - becomes _.

    `kernel` is the version to print. `aliases` are those of loadable modules and of modprobe.d. `users` and `groups`
    are the existing ones of NamesInPolicy. `units` are patterns, because a template stands for every instance.
    `programs` maps each path of NamesInPolicy to the path that the kernel reports for a running task, "" if there is
    no such file.
    """

    kernel: str = ""
    modules: frozenset[str] | None = None
    built_in: frozenset[str] = frozenset()
    aliases: tuple[str, ...] = ()
    built_in_aliases: tuple[str, ...] = ()
    users: frozenset[int] | None = None
    groups: frozenset[int] | None = None
    units: tuple[str, ...] | None = None
    programs: Mapping[str, str] = {}


def names_in(policies: Iterable[Policy]) -> NamesInPolicy:
    """Return the names in these policies that must be looked up."""
    rules = [rule for policy in policies for rule in policy.rules]
    return NamesInPolicy(
        frozenset(number for rule in rules for number in rule.users or ()),
        frozenset(number for rule in rules for number in rule.groups or ()),
        frozenset(each for rule in rules for each in rule.executables or () if is_literal(each)),
    )


class Names:
    """The machine's names, and the findings on rows that name others."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        loadable = facts.modules or frozenset()
        self.modules = sorted(loadable | facts.built_in)
        # Many requests name a module and not an alias.
        self.aliases = PatternIndex((*facts.aliases, *loadable), NO_DASH)
        self.built_in_aliases = PatternIndex((*facts.built_in_aliases, *facts.built_in), NO_DASH)
        self.units = PatternIndex(facts.units or ())

    def of(self, row: Row, place: Place) -> Iterator[Finding]:
        """Report names in the row that the machine does not have, or has built into the kernel."""
        if self.facts.modules is not None:
            if not isinstance(row, CallSite):
                yield from self._modules(row, place)
            yield from self._aliases(row, place)
        if isinstance(row, Rule):
            yield from self._accounts(row, place)
            yield from self._units(row, place)
            yield from self._executables(row, place)

    def _modules(self, row: Mark | Rule, place: Place) -> Iterator[Finding]:
        matching = {each: self._matching(each) for each in row.modules or () if not impossible("modules", each)}
        absent = [each for each, names in matching.items() if not names]
        if absent:
            present = {name for names in matching.values() for name in names}
            hint = _suggestion(map(normalize_pattern, absent), [name for name in self.modules if name not in present])
            message = f"kernel {self.facts.kernel} has no module named {join_names(map(ascii, absent))}{hint}"
            yield place.finding(_severity_of_absent(row, len(absent), len(row.modules or ())), "modules", message)
        if not _refuses(row):
            return
        # Report a pattern only if all its modules are built in: a wider pattern is also meant for future modules.
        built_in = [each for each, names in matching.items() if names and set(names) <= self.facts.built_in]
        if built_in:
            yield place.finding(Severity.WARNING, "modules", self._built_in(built_in))

    def _built_in(self, patterns: Sequence[str]) -> str:
        verb = "is" if len(patterns) == 1 else "are"
        names = join_names(map(ascii, patterns))
        return f"{names} {verb} built into kernel {self.facts.kernel}, so every user has access already"

    def _matching(self, pattern: str) -> list[str]:
        """Return the modules of this kernel that the pattern matches."""
        begin = literal_prefix(normalize_pattern(pattern))
        found = []
        for index in range(bisect_left(self.modules, begin), len(self.modules)):
            name = self.modules[index]
            if not name.startswith(begin):
                break
            if alias_glob(pattern, name):
                found.append(name)
        return found

    def _aliases(self, row: Row, place: Place) -> Iterator[Finding]:
        unanswered = [
            each
            for each in row.aliases or ()
            if not impossible("aliases", each) and not self.aliases.meets(normalize_pattern(each))
        ]
        built_in = [each for each in unanswered if self.built_in_aliases.meets(normalize_pattern(each))]
        absent = [each for each in unanswered if each not in built_in]
        if absent:
            message = f"kernel {self.facts.kernel} has no module for alias {join_names(map(ascii, absent))}"
            yield place.finding(_severity_of_absent(row, len(absent), len(row.aliases or ())), "aliases", message)
        if built_in and not isinstance(row, CallSite) and _refuses(row):
            yield place.finding(Severity.WARNING, "aliases", self._built_in(built_in))

    def _accounts(self, rule: Rule, place: Place) -> Iterator[Finding]:
        for key, what, numbers, known in (
            ("users", "user with uid", rule.users, self.facts.users),
            ("groups", "group with gid", rule.groups, self.facts.groups),
        ):
            absent = sorted((numbers or frozenset()) - known) if known is not None else []
            if absent:
                message = f"this system has no {what} {join_names(map(str, absent))}"
                yield place.finding(Severity.WARNING, key, message)

    def _units(self, rule: Rule, place: Place) -> Iterator[Finding]:
        if self.facts.units is None:
            return
        absent = [each for each in rule.units or () if not impossible("units", each) and not self.units.meets(each)]
        if absent:
            hint = _suggestion(absent, [each for each in self.facts.units if is_literal(each)])
            message = f"this system has no unit named {join_names(map(ascii, absent))}{hint}"
            yield place.finding(Severity.WARNING, "units", message)

    def _executables(self, rule: Rule, place: Place) -> Iterator[Finding]:
        patterns = rule.executables or ()
        for each in patterns:
            real = self.facts.programs.get(each)
            if real is None or impossible("executables", each):
                continue
            if not real:
                yield place.finding(Severity.WARNING, "executables", f"this system has no file {each!a}")
            elif not any(glob(pattern, real) for pattern in patterns):
                message = f"{each!a} resolves to {real!a}; write that path, because the kernel reports it"
                yield place.finding(Severity.WARNING, "executables", message)


def _refuses(row: Mark | Rule) -> bool:
    """Whether the row can refuse a module to any caller."""
    return row.action is not Action.ALLOW if isinstance(row, Rule) else row.capability is not None


def _severity_of_absent(row: Row, absent: int, every: int) -> Severity:
    """A rule is for this machine. Marks and call sites list names of many kernels, so a few absent ones are normal."""
    return Severity.WARNING if isinstance(row, Rule) or absent == every else Severity.NOTE


def _suggestion(absent: Iterable[str], names: Sequence[str]) -> str:
    """Suggest a similar name for a typing error. With three or more absent names, assume names of other machines."""
    from difflib import get_close_matches  # slow to import, and needed only for a wrong name

    few = list(absent)
    for wrong in few if len(few) < 3 else ():
        if not is_literal(wrong) or len(wrong) < 4:
            continue
        alike = [name for name in names if name[:1] == wrong[:1]]
        as_long = [name for name in alike if len(name) == len(wrong)]
        # difflib's ratio: 0.75 allows one wrong letter in four, 0.88 one extra letter in nine.
        near = get_close_matches(wrong, as_long, 1, 0.75) or get_close_matches(wrong, alike, 1, 0.88)
        if near:
            return f"; did you mean {near[0]!a}?"
    return ""
