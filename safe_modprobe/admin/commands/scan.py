"""`scan`: read every module of a kernel twice, by libkmod and by pyelftools, and say what is odd about it.

libkmod is what the helper goes by; pyelftools reads the same bytes with other code. Where the two disagree, where
.modinfo is there twice or cut short, or where a privileged= marker is not one, a module may not be what it seems.
Nothing is loaded.

Exit status: 0 when both readers agree on every module and every marker is one, 1 otherwise.
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
  safe-modprobectl scan                                  the running kernel's modules: a summary, and what is odd
  safe-modprobectl scan --all                            every module, with who can have the kernel ask for it
  safe-modprobectl scan --root /mnt || echo odd          an image, before it boots
  safe-modprobectl scan --kernel 6.1.0-49-amd64 --json | jq '.modules[] | select(.marker)'
"""


class Found(NamedTuple):
    """A scanned module, and the requests that bring it in."""

    scanned: "Scanned"
    requests: tuple[Reached, ...]
    reach: Reach


def add_parser(commands: Commands) -> None:
    """Add `scan`."""
    parser = add_command(commands, "scan", "read every module twice, and say what is odd", __doc__, _EXAMPLES)
    parser.add_argument("-a", "--all", action="store_true", help="list every module, not only the odd and the marked")
    add_machine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 without a finding, 1 with one."""
    on = machine.from_arguments(arguments)
    found = _scan(on, quiet=arguments.json)
    if arguments.json:
        output.print_json(as_json(on, found))
    else:
        _print(on, found, arguments.all)
    return 1 if any(each.scanned.findings for each in found) else 0


def _scan(on: Machine, quiet: bool) -> list[Found]:
    from safe_modprobe.admin.modules.scan import module_files, scan  # it brings pyelftools

    files = module_files(on.folder())
    scanned = scan(on.folder(), files)
    return [_found(each) for each in sorted(scanned if quiet else _with_a_bar(scanned, len(files)))]


def _with_a_bar(scanned: Iterator["Scanned"], total: int) -> Iterable["Scanned"]:
    """A bar on standard error while they are worked at, if that is a terminal."""
    from rich.progress import track

    errors = output.console(errors=True)
    if not errors.is_interactive:  # rich would still end it with an empty line
        return scanned
    return track(scanned, "reading modules", total, console=errors, transient=True)


def _found(scanned: "Scanned") -> Found:
    asked = requests_for(scanned.module, scanned.aliases)
    return Found(scanned, asked, weakest(asked))


def as_json(on: Machine, found: Sequence[Found]) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "kernel": on.release(),
        "folder": on.folder(),
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
    """Of a class: modules, those with a marker, and those with a finding."""
    here = [each.scanned for each in found if each.reach is reach]
    marked = sum(each.marker.written is not None and not each.findings for each in here)
    return len(here), marked, sum(bool(each.findings) for each in here)


def _print(on: Machine, found: Sequence[Found], every: bool) -> None:
    output.print_table(
        ("who can have the kernel ask for it", "class", *_COUNTS),
        [(TITLES[reach], reach, *_counts(found, reach)) for reach in ORDER],
        f"{len(found)} modules of {output.printable(on.release())}, each read by libkmod and by pyelftools",
    )
    if every:
        _print_modules("every module", found)
    elif marked := [each for each in found if each.scanned.marker.written is not None and not each.scanned.findings]:
        _print_modules("marked privileged= by their own .modinfo", marked)
    odd = [each for each in found if each.scanned.findings]
    if odd:
        print()
        rows = [(each.scanned.path, finding) for each in odd for finding in each.scanned.findings]
        output.print_table(("file", "finding"), rows, f"odd: {len(odd)} of {len(found)}")


def _print_modules(title: str, found: Sequence[Found]) -> None:
    print()
    rows = [
        (each.scanned.module, each.reach, each.scanned.marker.written or "", _asked(each.requests), each.scanned.path)
        for each in found
    ]
    output.print_table(("module", "class", "marker", "asked for as", "file"), rows, title)


def _asked(asked: Sequence[Reached]) -> str:
    """The request of the weakest caller, and how many more there are."""
    if not asked:
        return ""
    return asked[0].request + (f" (+{len(asked) - 1})" if len(asked) > 1 else "")
