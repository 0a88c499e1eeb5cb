"""`scan`: read every module of a kernel with libkmod and with pyelftools, and report findings. It loads nothing.

The helper reads modules with libkmod. pyelftools reads the same bytes with independent code. The command reports a
module if the two readers disagree, if its .modinfo section is duplicated or truncated, or if its privileged= marker is
invalid. Such a module may have been tampered with.

The exit status is 0 if there are no findings, and 1 otherwise.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from safe_modprobe.admin.commands import machine, output
from safe_modprobe.admin.commands.machine import Machine
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_json, add_machine
from safe_modprobe.admin.policy.reach import ORDER, TITLES, Reach, Reached, requests_for, weakest
from safe_modprobe.capability import name_of
from safe_modprobe.light_types import NamedTuple

if TYPE_CHECKING:
    from safe_modprobe.admin.modules.scan import Scanned

_EXAMPLES = """
  safe-modprobectl scan                                  the running kernel's modules: a summary and the findings
  safe-modprobectl scan --all                            every module, and which callers can request it
  safe-modprobectl scan --root /mnt || echo findings     an image, before it boots
  safe-modprobectl scan --kernel 6.1.0-49-amd64 --json | jq '.modules[] | select(.marker)'
"""


class Found(NamedTuple):
    """A scanned module, the requests that load it, and the weakest caller that can cause one of them."""

    scanned: "Scanned"
    requests: tuple[Reached, ...]
    reach: Reach


def add_parser(commands: Commands) -> None:
    """Add `scan`."""
    parser = add_command(
        commands, "scan", "read every module with two readers, and report findings", __doc__, _EXAMPLES
    )
    parser.add_argument(
        "-a", "--all", action="store_true", help="list every module, not only those with findings or markers"
    )
    add_machine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if there are findings, otherwise 0."""
    system = machine.from_arguments(arguments)
    found = _scan(system, quiet=arguments.json)
    if arguments.json:
        output.print_json(as_json(system, found))
    else:
        _print(system, found, arguments.all)
    return 1 if any(each.scanned.findings for each in found) else 0


def _scan(system: Machine, quiet: bool) -> list[Found]:
    from safe_modprobe.admin.modules.scan import module_files, scan  # This imports pyelftools.

    files = module_files(system.folder())
    scanned = scan(system.folder(), files)
    return [_found(each) for each in sorted(scanned if quiet else _with_progress_bar(scanned, len(files)))]


def _with_progress_bar(scanned: Iterator["Scanned"], total: int) -> Iterable["Scanned"]:
    """Show a progress bar on standard error if that is a terminal."""
    from rich.progress import track

    errors = output.console(errors=True)
    if not errors.is_interactive:  # Off a terminal, rich would still print an empty line at the end.
        return scanned
    return track(scanned, "reading modules", total, console=errors, transient=True)


def _found(scanned: "Scanned") -> Found:
    requests = requests_for(scanned.module, scanned.aliases)
    return Found(scanned, requests, weakest(requests))


def as_json(system: Machine, found: Sequence[Found]) -> dict[str, Any]:
    """Return every module with its requests and findings as JSON values."""
    return {
        "kernel": system.release(),
        "folder": system.folder(),
        "classes": {reach: dict(zip(_COUNTS, _counts(found, reach), strict=True)) for reach in ORDER},
        "modules": [_json_module(each) for each in found],
    }


def _json_module(each: Found) -> dict[str, Any]:
    scanned = each.scanned
    needs = scanned.marker.capability
    return {
        "module": scanned.module,
        "path": scanned.path,
        "marker": scanned.marker.written,
        "needs": None if needs is None else name_of(needs),
        "class": each.reach,
        "aliases": scanned.aliases,
        "requests": [
            {"request": request, "family": family.name, "class": family.reach, "site": family.site}
            for request, family in each.requests
        ],
        "findings": scanned.findings,
    }


_COUNTS = ("modules", "marked", "odd")


def _counts(found: Sequence[Found], reach: Reach) -> tuple[int, int, int]:
    """Return how many modules of a class there are, how many have a valid marker, and how many have findings."""
    in_class = [each.scanned for each in found if each.reach is reach]
    marked = sum(each.marker.written is not None and not each.findings for each in in_class)
    return len(in_class), marked, sum(bool(each.findings) for each in in_class)


def _print(system: Machine, found: Sequence[Found], list_all: bool) -> None:
    output.print_table(
        ("who can request the module", "class", "modules", "marked", "with findings"),
        [(TITLES[reach], reach, *_counts(found, reach)) for reach in ORDER],
        f"{len(found)} modules of {output.printable(system.release())}, each read by libkmod and by pyelftools",
    )
    if list_all:
        _print_modules("every module", found)
    elif marked := [each for each in found if each.scanned.marker.written is not None and not each.scanned.findings]:
        _print_modules("modules with a valid privileged= marker", marked)
    with_findings = [each for each in found if each.scanned.findings]
    if with_findings:
        print()
        rows = [(each.scanned.path, finding) for each in with_findings for finding in each.scanned.findings]
        output.print_table(("file", "finding"), rows, f"modules with findings: {len(with_findings)} of {len(found)}")


def _print_modules(title: str, found: Sequence[Found]) -> None:
    print()
    rows = [
        (
            each.scanned.module,
            each.reach,
            each.scanned.marker.written or "",
            _first_request(each.requests),
            each.scanned.path,
        )
        for each in found
    ]
    output.print_table(("module", "class", "marker", "requested as", "file"), rows, title)


def _first_request(requests: Sequence[Reached]) -> str:
    """Return the request of the weakest caller, and how many more requests there are."""
    if not requests:
        return ""
    return requests[0].request + (f" (+{len(requests) - 1})" if len(requests) > 1 else "")
