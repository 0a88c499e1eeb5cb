"""`suggest`: print the smallest set of rules that would allow the refused requests.

The rules come from the recorded refusals, and from the requests that only a trial let through. The command prints a
drop-in with a reason for each rule, and changes nothing. Read the drop-in before you save it. There is no rule for an
unknown caller, or where a new rule would have no effect; a comment names these requests.
"""

import argparse
import sys
from typing import Any

from safe_modprobe.admin.commands import machine
from safe_modprobe.admin.commands.output import print_json
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_json, add_root
from safe_modprobe.admin.commands.records import Filters, add_file, add_filters, report_skipped, user_names
from safe_modprobe.admin.records.journal import Journal
from safe_modprobe.admin.records.suggest import Evidence, Proposal, Suggestion, as_toml, suggest
from safe_modprobe.policy.text import rule_table

_EXAMPLES = """
  safe-modprobectl suggest --since 7d               after a trial of a week
  safe-modprobectl suggest --user asterisk          for one user only
  safe-modprobectl suggest > 20-suggested.toml      read the file, then move it to /etc/safe-modprobe/policy.d
"""


def add_parser(commands: Commands) -> None:
    """Add `suggest`."""
    parser = add_command(commands, "suggest", "print rules that would allow the refused requests", __doc__, _EXAMPLES)
    add_filters(parser)
    add_file(parser)
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0, even if there is no rule to propose."""
    system = machine.from_arguments(arguments)
    policy = system.policy()
    filters = Filters(arguments, system.accounts())
    journal = Journal(arguments.root, arguments.file)
    events = list(filters.select(journal.events(arguments.since)))
    names = {} if arguments.file and arguments.root is None else user_names(events, system)
    suggestion = suggest(events, policy, names)
    counted = sum(each.times for each in filters.select_counts(journal.repeated(arguments.since), refused=True))
    if arguments.json:
        others = {"counted": counted, "forged": journal.forged, "malformed": journal.malformed}
        print_json(_json(suggestion) | others)
    else:
        print(as_toml(suggestion), end="")
        if counted:
            print(
                f"safe-modprobectl: no rules for rate-limited refusals, whose modules were not recorded: {counted}",
                file=sys.stderr,
            )
    report_skipped(journal)
    return 0


def _json(suggestion: Suggestion) -> dict[str, Any]:
    return {
        "policy": as_toml(suggestion),
        "proposals": [_json_proposal(each) for each in suggestion.proposals],
        "not_proposed": [
            {"modules": each.modules, "why": each.why, "evidence": _json_evidence(each.evidence)}
            for each in suggestion.refusals
        ],
        "settled": suggestion.settled,
    }


def _json_proposal(proposal: Proposal) -> dict[str, Any]:
    rule = proposal.rule
    return {
        "modules": rule.modules,
        "users": None if rule.users is None else sorted(rule.users),
        "units": rule.units,
        "user_namespace": rule.user_namespace,
        "rule": rule_table(rule),
        "evidence": [_json_evidence(each) for each in proposal.evidence],
    }


def _json_evidence(each: Evidence) -> dict[str, Any]:
    return {
        "who": each.requester,
        "times": each.times,
        "first": each.first.isoformat(),
        "last": each.last.isoformat(),
        "aliases": each.aliases,
        "names": each.comms,
    }
