"""`make demo`: the main job, seen from outside, in under a screenful."""

import argparse
import sys

from rich.console import Console
from rich.status import Status
from rich.table import Table

from tests.vm.cache import CACHE, TOP
from tests.vm.kernels import kernel
from tests.vm.qemu import boot, machine


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--verbose", action="store_true", help="the guest's console and its whole log, too")
    arguments = parser.parse_args()
    notes = Console(stderr=True)
    what = machine("demo")
    with notes.status("preparing …") as status:
        progress = lambda message: _progress(notes, status, message)
        version = kernel(what.kernel, progress).version
        status.update(f"booting Linux {version} under emulation …")
        result = boot(what, ["--demo"], progress)
    log = CACHE / "log/demo.log"
    log.write_text(result.console)
    if arguments.verbose:
        notes.print(result.console, markup=False, highlight=False)
    rows = [row for line in result.lines for row in line.get("rows", [])]
    if not rows:
        notes.print(f"the guest showed nothing; {log.relative_to(TOP)} says why")
        return 1
    _show(version, rows)
    return 0


def _progress(notes: Console, status: Status, message: str) -> None:
    """One line that is rewritten on a terminal, and plain lines elsewhere."""
    status.update(message)
    if not notes.is_terminal:
        notes.print(message, highlight=False)


def _show(version: str, rows: list[dict[str, str]]) -> None:
    out = Console(width=None if sys.stdout.isatty() else 118)
    table = Table(title=f"Linux {version}, kernel.modprobe = /usr/sbin/safe-modprobe, the policy as shipped")
    for head in ("who asked", "for what", "decided", "by which line", "then in /proc/modules"):
        table.add_column(head)
    for row in rows:
        colour = "red" if row["verdict"] == "denied" else "green"
        there = f"{row['module']}: {'yes' if row['loaded'] else 'no'}"
        origin = row["origin"].replace("/lib/modules/", "…/").replace(f"{version}/", "")
        table.add_row(row["who"], row["what"], f"[{colour}]{row['verdict']}[/]", origin, there)
    out.print(table)
    out.print("What the log said of the first:", style="bold")
    out.print(rows[0]["said"], markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
