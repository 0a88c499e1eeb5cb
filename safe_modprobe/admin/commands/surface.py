"""`surface`: which modules callers without the right can make this kernel load, before the policy and with it.

Three kinds of callers: any user, root of a user namespace, a network admin. Every request that the kernel makes for
one of them is planned as modprobe would and decided as the helper would, dependencies and all. Nothing is loaded.
"""

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from itertools import chain
from typing import Any

from safe_modprobe import __version__
from safe_modprobe.admin.commands import machine, output
from safe_modprobe.admin.commands.machine import Machine
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_json, add_machine
from safe_modprobe.admin.modules.indexes import read_indexes
from safe_modprobe.admin.modules.inspect_plan import read_plans
from safe_modprobe.admin.modules.surface import FamilyRow, Kind, Row, Surface, Tally, kinds, reachable_requests, survey
from safe_modprobe.admin.policy.digest import digest
from safe_modprobe.admin.policy.reach import TITLES, requests_for
from safe_modprobe.capability import names_of
from safe_modprobe.errors import UsageError
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Policy, Request, TargetState
from safe_modprobe.policy.files import parse_policy, read_drop_ins

_EXAMPLES = """
  safe-modprobectl surface                              the numbers, and what each family of requests brings in
  safe-modprobectl surface --all                        every module, with the line that decides
  safe-modprobectl surface --html surface.html          one page with charts, to send to an auditor
  safe-modprobectl surface --root /mnt --json           an image, before it boots
"""


class Report(NamedTuple):
    """What was looked at, when and by what, and what was found. `files` are the policy's, each with its digest."""

    tool: str
    when: str
    kernel: str
    folder: str
    running: bool
    policy: Policy
    files: tuple[tuple[str, str], ...]
    digest: str
    built_in_known: bool
    surface: Surface


def add_parser(commands: Commands) -> None:
    """Add `surface`."""
    parser = add_command(
        commands, "surface", "what users can make the kernel load, before and with the policy", __doc__, _EXAMPLES
    )
    parser.add_argument("-a", "--all", action="store_true", help="list every module, with the line that decides")
    parser.add_argument("--html", metavar="FILE", help="write it as one self-contained page; - is standard output")
    add_machine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0."""
    if arguments.json and arguments.html == "-":
        raise UsageError("--html: standard output is taken by --json; name a file")
    on = machine.from_arguments(arguments)
    if arguments.html is None:
        report = look(on)
    else:
        from safe_modprobe.admin.commands.surface_page import page  # it brings jinja2 and matplotlib

        report = look(on)
        _write(arguments.html, page(as_json(report)))
    if arguments.json:
        output.print_json(as_json(report))
    elif arguments.html is None:
        _print(report, arguments.all)
    elif arguments.html != "-":
        print(f"{output.printable(arguments.html)}: written; {_in_short(report.surface)}")
    return 0


def look(on: Machine) -> Report:
    """Read the policy and the modules, and judge all that can be asked for. Raises PolicyError, UsageError, OSError."""
    drop_ins = read_drop_ins(on.folders())
    policy = parse_policy(drop_ins, on.accounts())
    indexes = read_indexes(on.modules(), on.config())
    callers = kinds(policy)
    everything = chain(indexes.modules.items(), (indexes.built_in or {}).items())
    asked = reachable_requests(
        chain.from_iterable(requests_for(name, aliases) for name, aliases in everything), callers
    )
    plans = read_plans((Request(each.request) for each in asked), on.modules(), on.config(), as_if_new=not on.running())
    return Report(
        tool=f"safe-modprobe {__version__}",
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        kernel=on.release(),
        folder=on.folder(),
        running=on.running(),
        policy=policy,
        files=tuple((path, sha256(content).hexdigest()) for path, content in drop_ins),
        digest=digest(drop_ins),
        built_in_known=indexes.built_in is not None,
        surface=survey(policy, callers, zip(asked, plans, strict=True)),
    )


def _write(path: str, text: str) -> None:
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:  # of write(2) it does not say where
        raise OSError(error.errno, error.strerror, path) from None


def as_json(report: Report) -> dict[str, Any]:
    """Everything, for machines and for the page."""
    settings, surface = report.policy.settings, report.surface
    return {
        "tool": report.tool,
        "when": report.when,
        "kernel": report.kernel,
        "folder": report.folder,
        "running": report.running,
        "policy": {
            "files": [{"path": path, "sha256": each} for path, each in report.files],
            "sha256": report.digest,
            "mode": settings.mode,
            "mismatch": settings.mismatch,
            "trial": settings.trial,
        },
        "callers": [_json_kind(surface, kind) for kind in surface.kinds],
        "families": [_json_family(each) for each in surface.families],
        "modules": [_json_row(each) for each in surface.rows],
        "present": [each._asdict() for each in surface.present],
        "built_in_known": report.built_in_known,
    }


def _json_kind(surface: Surface, kind: Kind) -> dict[str, Any]:
    caller = kind.caller
    return {
        "key": kind.key,
        "title": kind.title,
        "means": kind.means,
        "uid": caller.uid,
        "capabilities": names_of(caller.capabilities),
        "user_namespace": "initial" if caller.initial_user_namespace else "other",
        **surface.tally(kind)._asdict(),
        "classes": [
            {"class": reach, "title": TITLES[reach], **surface.tally(kind, reach)._asdict()}
            for reach in surface.classes()
        ],
    }


def _json_family(row: FamilyRow) -> dict[str, Any]:
    family = row.family
    return {
        "family": family.name,
        "patterns": family.patterns,
        "class": family.reach,
        "site": family.site,
        "condition": family.condition,
        "callers": {key: tally._asdict() for key, tally in row.tallies.items()},
    }


def _json_row(row: Row) -> dict[str, Any]:
    return {
        "module": row.module,
        "class": row.reach,
        "callers": {
            key: {
                "verdict": found.action,
                "request": found.asked.request,
                "family": found.asked.family.name,
                "reason": found.reason,
                "origin": str(found.origin),
            }
            for key, found in row.outcomes.items()
        },
    }


def _in_short(surface: Surface) -> str:
    return ", ".join(f"{kind.title.lower()}: {_arrow(surface.tally(kind))}" for kind in surface.kinds)


def _arrow(tally: Tally | None) -> str:
    return "" if tally is None or not tally.before else f"{tally.before} → {tally.after}"


def _print(report: Report, every: bool) -> None:
    surface, titles = report.surface, [kind.title for kind in report.surface.kinds]
    output.print_table(
        ("class: who it takes", *titles),
        [
            *(
                (TITLES[reach], *(_arrow(surface.tally(kind, reach)) for kind in surface.kinds))
                for reach in surface.classes()
            ),
            ("all", *(_arrow(surface.tally(kind)) for kind in surface.kinds)),
        ],
        f"modules of {output.printable(report.kernel)} that can be loaded: before the policy → with it",
    )
    print()
    output.print_table(
        ("asked for as", *titles, "where the kernel asks"),
        [
            (row.family.name, *(_arrow(row.tallies.get(kind.key)) for kind in surface.kinds), row.family.site)
            for row in surface.families
        ],
        "by family of requests, dependencies included (a module may be in several)",
    )
    if every:
        for kind in surface.kinds:
            print()
            _print_rows(surface, kind)
    print()
    print("\n".join(_footnotes(report)))


def _print_rows(surface: Surface, kind: Kind) -> None:
    rows = [
        (row.module, row.reach, found.action, found.asked.request, found.reason, found.origin)
        for row in surface.rows
        if (found := row.outcomes.get(kind.key)) is not None
    ]
    output.print_table(
        ("module", "class", "verdict", "asked for as", "why", "written in"), rows, f"{kind.title}: {kind.means}"
    )


def _footnotes(report: Report) -> Iterator[str]:
    settings = report.policy.settings
    named = (
        f"{len(report.files)} files, sha256 {report.digest}" if report.files else "the built-in one, for want of a file"
    )
    yield f"policy: {named}; mode {settings.mode}, mismatch {settings.mismatch}"
    if settings.trial:
        yield "trial: nothing is refused; what would be is recorded, and counts here as loaded"
    states = [each.state for each in report.surface.present]
    if states:
        yield (
            f"not in these numbers, out of any policy's reach: {states.count(TargetState.BUILT_IN)} built in,"
            f" {states.count(TargetState.LIVE)} loaded already"
        )
    if not report.built_in_known:
        yield "what is built in is not known: this kernel has no modules.builtin.modinfo"
