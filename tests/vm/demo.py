"""`make demo`: boot a stock kernel, request modules as a user and as root, and show the verdicts on one screen."""

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
    parser.add_argument("--verbose", action="store_true", help="also show the guest's console")
    arguments = parser.parse_args()
    notes = Console(stderr=True)
    spec = machine("demo")
    with notes.status("preparing …") as status:
        progress = lambda message: _show_progress(notes, status, message)
        version = kernel(spec.kernel, progress).version
        status.update(f"booting Linux {version} under emulation …")
        result = boot(spec, ["--demo"], progress)
    log = CACHE / "log/demo.log"
    log.write_text(result.console)
    if arguments.verbose:
        notes.print(result.console, markup=False, highlight=False)
    rows = [row for line in result.lines for row in line.get("rows", [])]
    if not rows:
        notes.print(f"the guest reported no verdicts; see its console in {log.relative_to(TOP)}")
        return 1
    _show(version, rows)
    return 0


def _show_progress(notes: Console, status: Status, message: str) -> None:
    """Show progress: one line that is rewritten on a terminal, plain lines elsewhere."""
    status.update(message)
    if not notes.is_terminal:
        notes.print(message, highlight=False)


def _show(version: str, rows: list[dict[str, str]]) -> None:
    out = Console(width=None if sys.stdout.isatty() else 118)
    table = Table(title=f"Linux {version}, kernel.modprobe = /usr/sbin/safe-modprobe, the policy as shipped")
    for head in ("requester", "request", "verdict", "decided by", "loaded afterwards"):
        table.add_column(head)
    for row in rows:
        colour = "red" if row["verdict"] == "denied" else "green"
        presence = f"{row['module']}: {'yes' if row['loaded'] else 'no'}"
        origin = row["origin"].replace("/lib/modules/", "…/").replace(f"{version}/", "")
        table.add_row(row["who"], row["what"], f"[{colour}]{row['verdict']}[/]", origin, presence)
    out.print(table)
    out.print("The log record of the first request:", style="bold")
    out.print(rows[0]["record"], markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
