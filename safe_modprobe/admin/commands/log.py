"""`log`: show the verdicts that the journal has recorded, in groups or one by one.

Any user can write journal records that look like verdicts. The command skips such forged records and counts them.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from safe_modprobe.admin.commands import machine
from safe_modprobe.admin.commands.output import local_time, print_json, print_table, printable
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_json, add_root
from safe_modprobe.admin.commands.records import Filters, add_file, add_filters, as_json, report_skipped, user_names
from safe_modprobe.admin.records.history import (
    REFUSED,
    Event,
    Group,
    Repeated,
    caller_of,
    describe_requester,
    group,
    sum_repeated,
)
from safe_modprobe.admin.records.journal import Journal
from safe_modprobe.admin.records.remedy import comment, snippet, subject_of
from safe_modprobe.escape import escape
from safe_modprobe.log.report import ADMIN_FILE

_EXAMPLES = """
  safe-modprobectl log --since yesterday            requests by caller and module, and rules that would allow them
  safe-modprobectl log --refused --user alice       what alice was refused, or would be refused without the trial
  safe-modprobectl log --module 'algif_*' --each    one line for each request, with its cursor for 'explain --event'
  safe-modprobectl log --follow --json              new verdicts as they happen, one JSON object on each line
"""


def add_parser(commands: Commands) -> None:
    """Add `log`."""
    parser = add_command(commands, "log", "show the recorded verdicts", __doc__, _EXAMPLES)
    add_filters(parser)
    parser.add_argument(
        "--refused", action="store_true", help="only refusals, and requests that only a trial let through"
    )
    display = parser.add_mutually_exclusive_group()
    display.add_argument("--each", action="store_true", help="print one line for each verdict, with its cursor")
    display.add_argument(
        "-f", "--follow", action="store_true", help="print new verdicts as they happen, from now or from --since on"
    )
    add_file(parser)
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0, even if nothing is recorded. SIGINT ends --follow."""
    system = machine.from_arguments(arguments)
    filters = Filters(arguments, system.accounts())
    journal = Journal(arguments.root, arguments.file)
    if arguments.follow:
        try:
            for event in _filter_refused(arguments, filters.select(journal.follow(arguments.since))):
                print(json.dumps(as_json(event)) if arguments.json else _line(event), flush=True)
        except KeyboardInterrupt:
            pass
        report_skipped(journal)
        return 0
    events = list(_filter_refused(arguments, filters.select(journal.events(arguments.since))))
    repeated = filters.select_counts(journal.repeated(arguments.since), arguments.refused)
    names = {} if arguments.file and arguments.root is None else user_names(events, system)
    if arguments.json:
        key, values = (
            ("events", map(as_json, events)) if arguments.each else ("groups", map(_json_group, group(events)))
        )
        counts = [{"time": each.time.isoformat(), **each.budget._asdict(), "times": each.times} for each in repeated]
        print_json({key: list(values), "counted": counts, "forged": journal.forged, "malformed": journal.malformed})
        return 0
    if not events:
        print("no matching verdict is recorded")
    elif arguments.each:
        print("\n".join(map(_line, events)))
    else:
        _print_groups(group(events), names)
    # With --each, every line of standard output is a verdict.
    _print_counted(repeated, sys.stderr if arguments.each else sys.stdout)
    report_skipped(journal)
    return 0


def _print_counted(repeated: Iterable[Repeated], to: TextIO) -> None:
    lines = [f"  {number} more: {kind}, {users}" for kind, users, number in sum_repeated(repeated)]
    if lines:
        print(
            "\nRate-limited records, which were only counted (see 'safe-modprobectl repeats'):",
            *lines,
            sep="\n",
            file=to,
        )


def _filter_refused(arguments: argparse.Namespace, events: Iterable[Event]) -> Iterable[Event]:
    return (event for event in events if event.verdict in REFUSED) if arguments.refused else events


def _line(event: Event) -> str:
    request = f"{escape(event.alias)} ({', '.join(map(escape, event.modules))})"
    reason = f"{event.reason} [{event.origin}]"
    return printable(
        f"{local_time(event.time)} {event.verdict} {request} to {describe_requester(event)}: {reason} {event.cursor}"
    )


def _print_groups(groups: tuple[Group, ...], names: dict[int, str]) -> None:
    """Print a table with the most recent group last, and below it the rules that would allow each group."""
    numbered = list(enumerate(groups, 1))
    print_table(
        ("", "verdict", "caller", "modules", "requested as", "times", "last"),
        [
            (
                number,
                str(each.latest.verdict),
                describe_requester(each.latest, names),
                ", ".join(each.modules),
                ", ".join(each.aliases),
                each.times,
                local_time(each.latest.time),
            )
            for number, each in numbered
        ],
    )
    snippets: dict[str, list[tuple[int, Group]]] = {}
    for number, each in numbered:
        if each.latest.verdict in REFUSED:
            snippets.setdefault(_remedy(each), []).append((number, each))
    if snippets:
        print(f"\nRules that would allow them, for {ADMIN_FILE} ('safe-modprobectl suggest' combines them):")
    for text, members in snippets.items():
        latest = members[-1][1].latest
        numbers = ", ".join(str(number) for number, _ in members)
        print("\n" + "".join(comment(f"{numbers}: {printable(f'{latest.reason} [{latest.origin}]')}")), end="")
        print(text, end="")


def _remedy(each: Group) -> str:
    if each.latest.barred:
        return "".join(comment(f"No new rule can override this; change {printable(each.latest.barred)}."))
    return snippet(subject_of(caller_of(each.latest)), each.modules)


def _json_group(each: Group) -> dict[str, Any]:
    refused = each.latest.verdict in REFUSED
    return {
        "verdict": str(each.latest.verdict),
        "modules": each.modules,
        "times": each.times,
        "first": each.first.isoformat(),
        "last": each.latest.time.isoformat(),
        "aliases": each.aliases,
        "names": each.comms,
        "remedy": _remedy(each) if refused and not each.latest.barred else None,
        "latest": as_json(each.latest),
    }
