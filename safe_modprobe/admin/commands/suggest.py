"""`suggest`: the smallest set of rules that lets through what was refused, or would have been in a trial.

From the recorded verdicts, with the reasons. It prints a drop-in and changes nothing: read it before you save it.
Nothing is proposed for unknown callers and where no new rule would help; comments say so.
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
  safe-modprobectl suggest --since 7d               after a week's trial
  safe-modprobectl suggest --user asterisk          for one user alone
  safe-modprobectl suggest > 20-suggested.toml      to be read, and then moved to /etc/safe-modprobe/policy.d
"""


def add_parser(commands: Commands) -> None:
    """Add `suggest`."""
    parser = add_command(commands, "suggest", "rules for what was refused; prints, never applies", __doc__, _EXAMPLES)
    add_filters(parser)
    add_file(parser)
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0, also where there is nothing to propose."""
    on = machine.from_arguments(arguments)
    policy = on.policy()
    filters = Filters(arguments, on.accounts())
    journal = Journal(arguments.root, arguments.file)
    events = list(filters.let(journal.events(arguments.since)))
    names = {} if arguments.file and arguments.root is None else user_names(events, on)
    suggestion = suggest(events, policy, names)
    counted = sum(each.times for each in filters.let_counts(journal.repeated(arguments.since), refused=True))
    if arguments.json:
        others = {"counted": counted, "forged": journal.forged, "malformed": journal.malformed}
        print_json(_json(suggestion) | others)
    else:
        print(as_toml(suggestion), end="")
        if counted:
            print(f"safe-modprobectl: only counted, so nobody knows for what: {counted}", file=sys.stderr)
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
        "who": each.who,
        "times": each.times,
        "first": each.first.isoformat(),
        "last": each.last.isoformat(),
        "aliases": each.aliases,
        "names": each.comms,
    }
