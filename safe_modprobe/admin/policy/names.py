"""What the rows of a policy name, held against what there is on a machine.

Pure: what the machine has comes as Facts. None of a fact stands for "nobody could look", and then nothing is said.
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
    """What of a policy has to be looked for one by one: numbers of users and groups, paths of programs."""

    users: frozenset[int]
    groups: frozenset[int]
    programs: frozenset[str]


class Facts(NamedTuple):
    """What there is on a machine. Names of modules and patterns of aliases are as match.py reads them: - is _.

    `kernel` is for people. `aliases` are those of modules that can be loaded and of modprobe.d. `users` and `groups`
    are those of Asked that somebody has. `units` are patterns, since a template stands for any instance. `programs`
    says of each path that was asked for what a task that runs it is called, "" where there is no such file.
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
    """What these policies name."""
    rules = [rule for policy in policies for rule in policy.rules]
    return NamesInPolicy(
        frozenset(number for rule in rules for number in rule.users or ()),
        frozenset(number for rule in rules for number in rule.groups or ()),
        frozenset(each for rule in rules for each in rule.executables or () if is_literal(each)),
    )


class Names:
    """The machine's names, and what rows say of others."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        loadable = facts.modules or frozenset()
        self.modules = sorted(loadable | facts.built_in)
        # Many a request names a module, not an alias.
        self.aliases = PatternIndex((*facts.aliases, *loadable), NO_DASH)
        self.built_in_aliases = PatternIndex((*facts.built_in_aliases, *facts.built_in), NO_DASH)
        self.units = PatternIndex(facts.units or ())

    def of(self, row: Row, place: Place) -> Iterator[Finding]:
        """What the row names and the machine does not have, or has built in."""
        if self.facts.modules is not None:
            if not isinstance(row, CallSite):
                yield from self._modules(row, place)
            yield from self._aliases(row, place)
        if isinstance(row, Rule):
            yield from self._people(row, place)
            yield from self._units(row, place)
            yield from self._executables(row, place)

    def _modules(self, row: Mark | Rule, place: Place) -> Iterator[Finding]:
        matching = {each: self._matching(each) for each in row.modules or () if not impossible("modules", each)}
        absent = [each for each, names in matching.items() if not names]
        if absent:
            present = {name for names in matching.values() for name in names}
            hint = _hint(map(normalize_pattern, absent), [name for name in self.modules if name not in present])
            message = f"no module of kernel {self.facts.kernel} is called {join_names(map(ascii, absent))}{hint}"
            yield place.finding(_of_absent(row, len(absent), len(row.modules or ())), "modules", message)
        if not _refuses(row):
            return
        # Said of a pattern only where it means nothing else: a class is for tomorrow's modules, too.
        built_in = [each for each, names in matching.items() if names and set(names) <= self.facts.built_in]
        if built_in:
            yield place.finding(Severity.WARNING, "modules", self._out_of_reach(built_in))

    def _out_of_reach(self, patterns: Sequence[str]) -> str:
        them = "it is" if len(patterns) == 1 else "they are"
        kernel = self.facts.kernel
        return f"{join_names(map(ascii, patterns))}: built into kernel {kernel}, so {them} there for everybody already"

    def _matching(self, pattern: str) -> list[str]:
        """The modules of this kernel that the pattern means."""
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
        silent = [
            each
            for each in row.aliases or ()
            if not impossible("aliases", each) and not self.aliases.meets(normalize_pattern(each))
        ]
        built_in = [each for each in silent if self.built_in_aliases.meets(normalize_pattern(each))]
        absent = [each for each in silent if each not in built_in]
        if absent:
            message = f"no module of kernel {self.facts.kernel} answers {join_names(map(ascii, absent))}"
            yield place.finding(_of_absent(row, len(absent), len(row.aliases or ())), "aliases", message)
        if built_in and not isinstance(row, CallSite) and _refuses(row):
            yield place.finding(Severity.WARNING, "aliases", self._out_of_reach(built_in))

    def _people(self, rule: Rule, place: Place) -> Iterator[Finding]:
        for key, thing, numbers, known in (
            ("users", "user", rule.users, self.facts.users),
            ("groups", "group", rule.groups, self.facts.groups),
        ):
            absent = sorted((numbers or frozenset()) - known) if known is not None else []
            if absent:
                message = f"no {thing} here has the number {join_names(map(str, absent))}"
                yield place.finding(Severity.WARNING, key, message)

    def _units(self, rule: Rule, place: Place) -> Iterator[Finding]:
        if self.facts.units is None:
            return
        absent = [each for each in rule.units or () if not impossible("units", each) and not self.units.meets(each)]
        if absent:
            hint = _hint(absent, [each for each in self.facts.units if is_literal(each)])
            message = f"no unit here is called {join_names(map(ascii, absent))}{hint}"
            yield place.finding(Severity.WARNING, "units", message)

    def _executables(self, rule: Rule, place: Place) -> Iterator[Finding]:
        patterns = rule.executables or ()
        for each in patterns:
            real = self.facts.programs.get(each)
            if real is None or impossible("executables", each):
                continue
            if not real:
                yield place.finding(Severity.WARNING, "executables", f"there is no file {each!a} here")
            elif not any(glob(pattern, real) for pattern in patterns):
                message = f"{each!a} leads to {real!a}, and that is what the kernel calls who runs it"
                yield place.finding(Severity.WARNING, "executables", message)


def _refuses(row: Mark | Rule) -> bool:
    """Whether it keeps a module from anybody."""
    return row.action is not Action.ALLOW if isinstance(row, Rule) else row.capability is not None


def _of_absent(row: Row, absent: int, every: int) -> Severity:
    """A rule is written for this machine; marks and call sites are lists for many kernels, of which some has each."""
    return Severity.WARNING if isinstance(row, Rule) or absent == every else Severity.NOTE


def _hint(absent: Iterable[str], names: Sequence[str]) -> str:
    """For a slip of the pen: of a list, most are names that other machines have."""
    from difflib import get_close_matches  # compares with all of them, which only a wrong name is worth

    few = list(absent)
    for wrong in few if len(few) < 3 else ():
        if not is_literal(wrong) or len(wrong) < 4:
            continue
        alike = [name for name in names if name[:1] == wrong[:1]]
        as_long = [name for name in alike if len(name) == len(wrong)]
        # By difflib's ratio: a letter of four that is another one, a letter of nine too many.
        near = get_close_matches(wrong, as_long, 1, 0.75) or get_close_matches(wrong, alike, 1, 0.88)
        if near:
            return f"; did you mean {near[0]!a}?"
    return ""
