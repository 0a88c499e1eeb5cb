"""`reload`: check the policy. The helper reads it anew for every request, so a good one is in force at once."""

import argparse

from safe_modprobe.ctl.parsers import Commands, add_command
from safe_modprobe.read.policy_files import read_policy

_EXAMPLES = """
  safe-modprobectl reload   after an edit
"""


def add_parser(commands: Commands) -> None:
    """Add `reload`."""
    parser = add_command(commands, "reload", "check the policy; a good one is in force at once", __doc__, _EXAMPLES)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 and a line of what was read; PolicyError for a broken one."""
    policy = read_policy()
    print(
        f"{len(policy.files)} files: {len(policy.rules)} rules, {len(policy.marks)} marks, "
        f"{len(policy.call_sites)} call sites; mode {policy.settings.mode}"
    )
    return 0
