"""`repeats`: show the rate-limited records, which were counted instead of written to the log.

In a minute, safe-modprobe writes at most 30 records of each kind for each user. It decides further requests as usual,
but only counts their records. After the minute, the helper writes one record with the count at the next request of any
user. If there is no next request, safe-modprobe-counts.path starts `repeats --write`.
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
  safe-modprobectl repeats                the counts since boot, and the counts that are not in the log yet
  safe-modprobectl repeats --json | jq .counted.deny
  safe-modprobectl repeats --write        write the counts to the log as soon as their minute is over
"""


def add_parser(commands: Commands) -> None:
    """Add `repeats`."""
    parser = add_command(commands, "repeats", "show the rate-limited records", __doc__, _EXAMPLES)
    parser.add_argument(
        "--write",
        action="store_true",
        help="write each count to the log as soon as its minute is over, then exit",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0. `--write` sleeps until no count is left to write."""
    if os.geteuid() != 0:
        raise UsageError("repeats: only root can read the counts in /run/safe-modprobe; run it as root")
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
    """Return the counts as JSON values. A single user is a range of one user id; -1 stands for unknown callers."""
    return {
        "counted": dict(counts.suppressed),
        "pending": [
            {
                **budget._asdict(),
                "written": window.written,
                "counted": window.counted,
                "seconds": seconds_left(window.start),
            }
            for budget, window in counts.windows.items()
            if window.counted
        ],
    }


def seconds_left(start: int) -> int:
    """Return the seconds until the window ends; `start` is in seconds after boot (CLOCK_BOOTTIME)."""
    return min(max(0, start + SECONDS - _now()), SECONDS)


def _print(counts: Counts) -> None:
    if not counts.suppressed:
        print("no record was rate-limited since boot; the log has every record")
        return
    for kind, number in counts.suppressed.items():
        print(f"{kind}: {number} since boot")
    pending = [(each, window) for each, window in counts.windows.items() if window.counted]
    if pending:
        print("\nnot in the log yet:\n")
        print_table(
            ("kind", "caller", "recorded", "only counted", "seconds left"),
            [
                (each.kind, describe_budget(each), window.written, window.counted, seconds_left(window.start))
                for each, window in pending
            ],
        )


def _now() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))
