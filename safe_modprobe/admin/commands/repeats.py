"""`repeats`: what was decided and only counted, since one user had too many records of a kind in a minute.

Each user has 30 records of each kind in a minute. What exceeds them is decided like any other request, and counted;
once the minute is over, one record says how many there were. The next request of anybody writes it; where none
comes, safe-modprobe-counts.path starts `repeats --write`.
"""

import argparse
import os
import time

from safe_modprobe.admin.commands.output import print_json, print_table
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_json
from safe_modprobe.errors import UsageError
from safe_modprobe.log.counts import SECONDS, Counts, seconds_until_due
from safe_modprobe.log.counts_file import read_counts
from safe_modprobe.log.rate_limited import write_due
from safe_modprobe.log.report import describe_budget

_EXAMPLES = """
  safe-modprobectl repeats                what was counted since boot, and what of it is not in the log yet
  safe-modprobectl repeats --json | jq .counted.deny
  safe-modprobectl repeats --write        record it as soon as its minute is over
"""


def add_parser(commands: Commands) -> None:
    """Add `repeats`."""
    parser = add_command(commands, "repeats", "what was only counted, to spare the log", __doc__, _EXAMPLES)
    parser.add_argument(
        "--write",
        action="store_true",
        help="record what is not in the log yet, as soon as its minute is over; then end",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0."""
    if os.geteuid() != 0:
        raise UsageError("repeats: what is counted in /run/safe-modprobe is root's alone to see; run it as root")
    if arguments.write:
        counts, due = write_due()
        while (seconds := seconds_until_due(counts, _now())) is not None:
            time.sleep(max(1, seconds))
            counts, more = write_due()
            due += more
        if arguments.json:
            print_json({"written": [{**each.budget._asdict(), "times": each.times} for each in due]})
        return 0
    counts = read_counts()
    if arguments.json:
        print_json(as_json(counts))
    else:
        _print(counts)
    return 0


def as_json(counts: Counts) -> dict[str, object]:
    """For machines; a user is a range of one, and -1 stands for callers whom nobody knows."""
    return {
        "counted": dict(counts.suppressed),
        "pending": [
            {**budget._asdict(), "written": window.written, "counted": window.counted, "seconds": left(window.start)}
            for budget, window in counts.windows.items()
            if window.counted
        ],
    }


def left(start: int) -> int:
    """Seconds until a window that began then is over."""
    return min(max(0, start + SECONDS - _now()), SECONDS)


def _print(counts: Counts) -> None:
    if not counts.suppressed:
        print("nothing was only counted since boot; every record is in the log")
        return
    for kind, number in counts.suppressed.items():
        print(f"{kind}: {number} since boot")
    pending = [(each, window) for each, window in counts.windows.items() if window.counted]
    if pending:
        print("\nnot in the log yet:\n")
        print_table(
            ("kind", "who", "recorded", "only counted", "seconds left"),
            [
                (each.kind, describe_budget(each), window.written, window.counted, left(window.start))
                for each, window in pending
            ],
        )


def _now() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))
