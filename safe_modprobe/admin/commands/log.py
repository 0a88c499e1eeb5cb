"""`log`: what was decided for whom, from the journal; grouped, or each by itself.

Any user can write records that look like ours; those are left out and counted.
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
  safe-modprobectl log --since yesterday            who asked for what, how often, and what would let it through
  safe-modprobectl log --refused --user alice       what alice did not get, or would not but for the trial
  safe-modprobectl log --module 'algif_*' --each    every request by itself, with its cursor for 'explain --event'
  safe-modprobectl log --follow --json              as they come, a JSON object a line
"""


def add_parser(commands: Commands) -> None:
    """Add `log`."""
    parser = add_command(commands, "log", "the recorded verdicts, grouped or each", __doc__, _EXAMPLES)
    add_filters(parser)
    parser.add_argument("--refused", action="store_true", help="only refusals, and what would be but for a trial")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--each", action="store_true", help="every verdict in a line, with its cursor")
    how.add_argument("-f", "--follow", action="store_true", help="every verdict from now (or --since) on, as it comes")
    add_file(parser)
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0, also where nothing is recorded; --follow ends with the terminal's interrupt."""
    on = machine.from_arguments(arguments)
    filters = Filters(arguments, on.accounts())
    journal = Journal(arguments.root, arguments.file)
    if arguments.follow:
        try:
            for event in _wanted(arguments, filters.let(journal.follow(arguments.since))):
                print(json.dumps(as_json(event)) if arguments.json else _line(event), flush=True)
        except KeyboardInterrupt:
            pass
        report_skipped(journal)
        return 0
    events = list(_wanted(arguments, filters.let(journal.events(arguments.since))))
    repeated = filters.let_counts(journal.repeated(arguments.since), arguments.refused)
    names = {} if arguments.file and arguments.root is None else user_names(events, on)
    if arguments.json:
        key, values = (
            ("events", map(as_json, events)) if arguments.each else ("groups", map(_json_group, group(events)))
        )
        counts = [{"time": each.time.isoformat(), **each.budget._asdict(), "times": each.times} for each in repeated]
        print_json({key: list(values), "counted": counts, "forged": journal.forged, "malformed": journal.malformed})
        return 0
    if not events:
        print("no such verdict is recorded")
    elif arguments.each:
        print("\n".join(map(_line, events)))
    else:
        _print_groups(group(events), names)
    _print_counted(repeated, sys.stderr if arguments.each else sys.stdout)  # of --each every line is a verdict
    report_skipped(journal)
    return 0


def _print_counted(repeated: Iterable[Repeated], to: TextIO) -> None:
    lines = [f"  {number} more: {kind}, {users}" for kind, users, number in sum_repeated(repeated)]
    if lines:
        print("\nCounted, and not recorded one by one ('safe-modprobectl repeats'):", *lines, sep="\n", file=to)


def _wanted(arguments: argparse.Namespace, events: Iterable[Event]) -> Iterable[Event]:
    return (event for event in events if event.verdict in REFUSED) if arguments.refused else events


def _line(event: Event) -> str:
    what = f"{escape(event.alias)} ({', '.join(map(escape, event.modules))})"
    said = f"{describe_requester(event)}: {event.reason} [{event.origin}]"
    return printable(f"{local_time(event.time)} {event.verdict} {what} to {said} {event.cursor}")


def _print_groups(groups: tuple[Group, ...], names: dict[int, str]) -> None:
    """The table, the most recent last as in every log, and below it what would let each through."""
    numbered = list(enumerate(groups, 1))
    print_table(
        ("", "verdict", "who", "modules", "asked for by", "times", "last"),
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
        print(f"\nWhat would let it through, in {ADMIN_FILE} ('safe-modprobectl suggest' makes fewer rules of all):")
    for text, those in snippets.items():
        why = f"{those[-1][1].latest.reason} [{those[-1][1].latest.origin}]"
        print("\n" + "".join(comment(f"{', '.join(str(number) for number, _ in those)}: {printable(why)}")), end="")
        print(text, end="")


def _remedy(each: Group) -> str:
    if each.latest.barred:
        return "".join(comment(f"No new rule comes before that; change {printable(each.latest.barred)}."))
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
