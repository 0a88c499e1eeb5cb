"""Warn about a valid policy: rows that have no effect, and names that this machine does not have. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from safe_modprobe.admin.policy.findings import Finding, ParsedPolicy, Place, Severity
from safe_modprobe.admin.policy.names import Facts, Names
from safe_modprobe.admin.policy.sentence import join_names
from safe_modprobe.admin.policy.shadow import Row, Shadow, find_shadows, impossible, patterns_of
from safe_modprobe.model import Action, Mode, Rule, Settings, Source
from safe_modprobe.policy.match import keys_beyond_kernel_args

NOTHING_KNOWN = Facts()


def lint(parsed: ParsedPolicy, facts: Facts = NOTHING_KNOWN) -> list[Finding]:
    """Return warnings and notes, by file in order of precedence and then by line."""
    places = _places(parsed)
    names = Names(facts)
    found = list(_settings(parsed))
    for row, shadow in find_shadows(parsed.policy):
        place = places[id(row)]
        found += _of_shadow(row, shadow, places)
        if not (shadow.never or shadow.before):
            found += names.of(row, place)
            found += _unavailable_details(row, place, parsed.policy.settings)
    order = {document.path: index for index, document in enumerate(parsed.documents)}
    return sorted(found, key=lambda finding: (order[finding.path], finding.line))


def _places(parsed: ParsedPolicy) -> Mapping[int, Place]:
    """Map id(row) to its place. Equal rows in two places need different keys."""
    policy = parsed.policy
    tables = (("mark", policy.marks), ("call_site", policy.call_sites), ("rule", policy.rules))
    return {id(row): place for table, rows in tables for row, place in zip(rows, parsed.rows(table), strict=True)}


def _of_shadow(row: Row, shadow: Shadow, places: Mapping[int, Place]) -> Iterator[Finding]:
    place = places[id(row)]
    if shadow.never:
        yield place.finding(Severity.WARNING, "", f"it can never match: {shadow.never}")
    elif shadow.before:
        yield place.finding(Severity.WARNING, "", f"it never decides: {_matched_first(shadow.before, places)}")
    else:
        if shadow.redundant:
            yield place.finding(Severity.WARNING, "", shadow.redundant)
        for key, pattern, before in shadow.parts:
            yield place.finding(Severity.WARNING, key, f"{pattern!a} never decides: {_matched_first(before, places)}")
        for key, patterns in patterns_of(row):
            for pattern in patterns:
                if why := impossible(key, pattern):
                    yield place.finding(Severity.WARNING, key, f"{pattern!a} can never match: {why}")


def _unavailable_details(row: Row, place: Place, settings: Settings) -> Iterator[Finding]:
    """Warn about a rule on a caller detail that kernel arguments lack, when no other source is configured."""
    if set(settings.sources) - {Source.BPF} != {Source.KERNEL_ARGS} or not isinstance(row, Rule):
        return
    for key in keys_beyond_kernel_args(row)[:1]:
        effect = "refuses callers without it, root included" if row.action is Action.DENY else "allows nobody"
        yield place.finding(
            Severity.WARNING,
            key,
            f"no configured source provides this detail for every caller, so the rule {effect}"
            f" [{settings.origin('sources')}]",
        )


def _matched_first(before: Sequence[Row], places: Mapping[int, Place]) -> str:
    where = join_names([str(places[id(each)]) for each in before])
    return f"{where} {'matches' if len(before) == 1 else 'match'} the same requests first"


def _settings(parsed: ParsedPolicy) -> Iterator[Finding]:
    """Warn about settings that an earlier file sets, and note those that disable other parts of the policy."""
    settings, seen = parsed.policy.settings, set()
    only = "only rules refuse" if parsed.policy.rules else "nothing is refused"
    notes = {
        ("mode", Mode.DISABLED): "with 'disabled' every load is refused; rules, marks and call sites have no effect",
        ("mode", Mode.ALLOWED): f"with 'allowed' {only}; marks have no effect",
        ("mismatch", Action.ALLOW): f"with 'allow' {only}; marks have no effect",
        ("mismatch", Action.LOG): f"with 'log' {only}; a load that a mark would refuse is allowed and recorded",
        ("trial", True): "with true nothing is refused; a load that would be refused is allowed and recorded",
    }
    for document in parsed.documents:
        place = Place(document, ("settings",))
        for key in document.tables.get("settings", {}):
            if key in seen:
                message = f"it is never used: {settings.origin(key)} sets it first"
                yield place.finding(Severity.WARNING, key, message)
            elif (key, getattr(settings, key, None)) in notes:
                yield place.finding(Severity.NOTE, key, notes[key, getattr(settings, key)])
            seen.add(key)
