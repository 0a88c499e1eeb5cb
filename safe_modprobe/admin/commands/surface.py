"""`surface`: count the modules that a caller can make this kernel load, without the policy and with it.

The command counts for three kinds of callers: any user, root of a user namespace, and a network administrator. It plans
every request that the kernel makes for such a caller as modprobe would, with all dependencies, and decides it as the
helper would. It loads nothing.
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
  safe-modprobectl surface                              the totals, and the modules of each family of requests
  safe-modprobectl surface --all                        every module, with the policy line that decides
  safe-modprobectl surface --html surface.html          one page with charts for an auditor
  safe-modprobectl surface --root /mnt --json           an image, before it boots
"""


class Report(NamedTuple):
    """What was inspected, when, by which version, and the result.

    `when` is in UTC. `files` has the path and the SHA-256 of each drop-in.
    """

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
        commands, "surface", "count the modules that users can make the kernel load", __doc__, _EXAMPLES
    )
    parser.add_argument("-a", "--all", action="store_true", help="list every module, with the policy line that decides")
    parser.add_argument("--html", metavar="FILE", help="write a self-contained HTML page to FILE; - is standard output")
    add_machine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0."""
    if arguments.json and arguments.html == "-":
        raise UsageError("--html: --json writes to standard output already; give --html a file")
    system = machine.from_arguments(arguments)
    if arguments.html is None:
        report = make_report(system)
    else:
        from safe_modprobe.admin.commands.surface_page import render_page  # This imports jinja2 and matplotlib.

        report = make_report(system)
        _write(arguments.html, render_page(as_json(report)))
    if arguments.json:
        output.print_json(as_json(report))
    elif arguments.html is None:
        _print(report, arguments.all)
    elif arguments.html != "-":
        print(f"{output.printable(arguments.html)}: written; {_one_line(report.surface)}")
    return 0


def make_report(system: Machine) -> Report:
    """Read the policy and the modules, and decide every reachable request. Raises PolicyError, UsageError, OSError."""
    drop_ins = read_drop_ins(system.folders())
    policy = parse_policy(drop_ins, system.accounts())
    indexes = read_indexes(system.modules(), system.config())
    callers = kinds(policy)
    all_modules = chain(indexes.modules.items(), (indexes.built_in or {}).items())
    requests = reachable_requests(
        chain.from_iterable(requests_for(name, aliases) for name, aliases in all_modules), callers
    )
    plans = read_plans(
        (Request(each.request) for each in requests), system.modules(), system.config(), as_if_new=not system.running()
    )
    return Report(
        tool=f"safe-modprobe {__version__}",
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        kernel=system.release(),
        folder=system.folder(),
        running=system.running(),
        policy=policy,
        files=tuple((path, sha256(content).hexdigest()) for path, content in drop_ins),
        digest=digest(drop_ins),
        built_in_known=indexes.built_in is not None,
        surface=survey(policy, callers, zip(requests, plans, strict=True)),
    )


def _write(path: str, text: str) -> None:
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:  # An error of write(2) lacks the file's name.
        raise OSError(error.errno, error.strerror, path) from None


def as_json(report: Report) -> dict[str, Any]:
    """Return the whole report as JSON values. The page is made from the same values."""
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
                "request": found.reached.request,
                "family": found.reached.family.name,
                "reason": found.reason,
                "origin": str(found.origin),
            }
            for key, found in row.outcomes.items()
        },
    }


def _one_line(surface: Surface) -> str:
    return ", ".join(f"{kind.title.lower()}: {_before_and_after(surface.tally(kind))}" for kind in surface.kinds)


def _before_and_after(tally: Tally | None) -> str:
    return "" if tally is None or not tally.before else f"{tally.before} → {tally.after}"


def _print(report: Report, list_all: bool) -> None:
    surface, titles = report.surface, [kind.title for kind in report.surface.kinds]
    output.print_table(
        ("class: weakest caller", *titles),
        [
            *(
                (TITLES[reach], *(_before_and_after(surface.tally(kind, reach)) for kind in surface.kinds))
                for reach in surface.classes()
            ),
            ("all", *(_before_and_after(surface.tally(kind)) for kind in surface.kinds)),
        ],
        f"modules of {output.printable(report.kernel)} that each caller can load: without the policy → with it",
    )
    print()
    output.print_table(
        ("requested as", *titles, "where the kernel requests"),
        [
            (
                row.family.name,
                *(_before_and_after(row.tallies.get(kind.key)) for kind in surface.kinds),
                row.family.site,
            )
            for row in surface.families
        ],
        "by family of requests, with dependencies (a module may be in several families)",
    )
    if list_all:
        for kind in surface.kinds:
            print()
            _print_rows(surface, kind)
    print()
    print("\n".join(_footnotes(report)))


def _print_rows(surface: Surface, kind: Kind) -> None:
    rows = [
        (row.module, row.reach, found.action, found.reached.request, found.reason, found.origin)
        for row in surface.rows
        if (found := row.outcomes.get(kind.key)) is not None
    ]
    output.print_table(
        ("module", "class", "verdict", "requested as", "reason", "origin"), rows, f"{kind.title}: {kind.means}"
    )


def _footnotes(report: Report) -> Iterator[str]:
    settings = report.policy.settings
    source = (
        f"{len(report.files)} files, sha256 {report.digest}"
        if report.files
        else "built-in, because no drop-in is installed"
    )
    yield f"policy: {source}; mode {settings.mode}, mismatch {settings.mismatch}"
    if settings.trial:
        yield "trial: nothing is refused; modules that would be refused are recorded, and count here as loaded"
    states = [each.state for each in report.surface.present]
    if states:
        yield (
            f"not counted, because no policy can refuse them: {states.count(TargetState.BUILT_IN)} built in,"
            f" {states.count(TargetState.LIVE)} already loaded"
        )
    if not report.built_in_known:
        yield "built-in modules are unknown: this kernel has no modules.builtin.modinfo"
