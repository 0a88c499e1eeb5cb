"""`reload`: check the policy after an edit.

A valid policy is in force at once, because the helper reads the policy anew for every request.
"""

import argparse

from safe_modprobe.admin.commands.output import count_noun, print_json, row_counts, rows_counted
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_json
from safe_modprobe.policy.cache_write import read_and_cache

_EXAMPLES = """
  safe-modprobectl reload   check the policy after an edit
"""


def add_parser(commands: Commands) -> None:
    """Add `reload`."""
    parser = add_command(commands, "reload", "check the policy after an edit", __doc__, _EXAMPLES)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a summary of the policy and return 0. Raises PolicyError for an invalid policy."""
    policy = read_and_cache()
    if arguments.json:
        print_json({"files": policy.files, **row_counts(policy), "mode": policy.settings.mode})
    else:
        print(f"{count_noun(len(policy.files), 'file')}: {rows_counted(policy)}; mode {policy.settings.mode}")
    return 0
