"""A policy that holds, and what is odd about it: what never decides, and what this machine does not have. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from safe_modprobe.admin.policy.findings import Finding, ParsedPolicy, Place, Severity
from safe_modprobe.admin.policy.names import Facts, Names
from safe_modprobe.admin.policy.sentence import join_names
from safe_modprobe.admin.policy.shadow import Row, Shadow, find_shadows, impossible, patterns_of
from safe_modprobe.model import Action, Mode, Rule, Settings, Source
from safe_modprobe.policy.match import keys_beyond_kernel_args

NOTHING_KNOWN = Facts()


def lint(sheet: ParsedPolicy, facts: Facts = NOTHING_KNOWN) -> list[Finding]:
    """Warnings and notes, file by file in the order of precedence, from top to bottom."""
    places = _places(sheet)
    names = Names(facts)
    found = list(_settings(sheet))
    for row, shadow in find_shadows(sheet.policy):
        place = places[id(row)]
        found += _of_shadow(row, shadow, places)
        if not (shadow.never or shadow.before):
            found += names.of(row, place)
            found += _not_said(row, place, sheet.policy.settings)
    order = {document.path: index for index, document in enumerate(sheet.documents)}
    return sorted(found, key=lambda finding: (order[finding.path], finding.line))


def _places(sheet: ParsedPolicy) -> Mapping[int, Place]:
    """By id(): rows of different places may be equal."""
    policy = sheet.policy
    tables = (("mark", policy.marks), ("call_site", policy.call_sites), ("rule", policy.rules))
    return {id(row): place for table, rows in tables for row, place in zip(rows, sheet.rows(table), strict=True)}


def _of_shadow(row: Row, shadow: Shadow, places: Mapping[int, Place]) -> Iterator[Finding]:
    place = places[id(row)]
    if shadow.never:
        yield place.finding(Severity.WARNING, "", f"it can never match: {shadow.never}")
    elif shadow.before:
        yield place.finding(Severity.WARNING, "", f"it never decides: {_first(shadow.before, places)}")
    else:
        if shadow.moot:
            yield place.finding(Severity.WARNING, "", shadow.moot)
        for key, pattern, before in shadow.parts:
            yield place.finding(Severity.WARNING, key, f"{pattern!a} never decides: {_first(before, places)}")
        for key, patterns in patterns_of(row):
            for pattern in patterns:
                if why := impossible(key, pattern):
                    yield place.finding(Severity.WARNING, key, f"{pattern!a} can never match: {why}")


def _not_said(row: Row, place: Place, settings: Settings) -> Iterator[Finding]:
    """Of a rule by what a kernel does not say, where the policy asks nobody else."""
    if set(settings.sources) - {Source.BPF} != {Source.KERNEL_ARGS} or not isinstance(row, Rule):
        return
    for key in keys_beyond_kernel_args(row)[:1]:
        then = "it refuses in doubt, root as well" if row.action is Action.DENY else "it lets nobody through"
        yield place.finding(
            Severity.WARNING,
            key,
            f"no kernel's words say that, and sources ask nobody else, so that {then} [{settings.origin('sources')}]",
        )


def _first(before: Sequence[Row], places: Mapping[int, Place]) -> str:
    where = join_names([str(places[id(each)]) for each in before])
    return f"whatever it matches, {where} {'matches' if len(before) == 1 else 'match'} first"


def _settings(sheet: ParsedPolicy) -> Iterator[Finding]:
    """Settings that an earlier file has already, and those that put other parts of the policy out of force."""
    settings, seen = sheet.policy.settings, set()
    only = "only rules refuse" if sheet.policy.rules else "nothing is refused"
    said = {
        ("mode", Mode.DISABLED): "with 'disabled' nothing is loaded for anybody: no rule, mark or call site counts",
        ("mode", Mode.ALLOWED): f"with 'allowed' {only}: no mark counts",
        ("mismatch", Action.ALLOW): f"with 'allow' {only}: no mark counts",
        ("mismatch", Action.LOG): f"with 'log' {only}: what a mark would refuse is recorded and let through",
        ("trial", True): "with true nothing is refused: what would be is recorded and let through",
    }
    for document in sheet.documents:
        place = Place(document, ("settings",))
        for key in document.tables.get("settings", {}):
            if key in seen:
                message = f"it is never used: {settings.origin(key)} sets it first"
                yield place.finding(Severity.WARNING, key, message)
            elif (key, getattr(settings, key, None)) in said:
                yield place.finding(Severity.NOTE, key, said[key, getattr(settings, key)])
            seen.add(key)
