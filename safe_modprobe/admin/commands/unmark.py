"""`unmark MODULE... --reason TEXT`: take the policy's mark away for everyone. A module's own marker stays."""

import argparse

from safe_modprobe.admin.commands.parsers import Commands, add_command, add_edit
from safe_modprobe.model import BY_MARKER

_EXAMPLES = """
  safe-modprobectl unmark sctp --reason "every user of this machine may"
  safe-modprobectl unmark af_alg --until-reboot   while a benchmark runs
"""


def add_parser(commands: Commands) -> None:
    """Add `unmark`."""
    parser = add_command(commands, "unmark", "take a module's mark away", __doc__, _EXAMPLES)
    parser.add_argument(
        "--over-marker",
        action="store_true",
        help="open it to everyone, whatever its own marker and the mode 'privileged' say",
    )
    add_edit(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 when users get the modules, also if they did before."""
    from safe_modprobe.admin.commands.edit_policy import RequestedEdit, Verb, apply_edit, reason  # they bring tomlkit

    privileged = False if arguments.over_marker else BY_MARKER
    return apply_edit(arguments, RequestedEdit(Verb.UNMARK, {"privileged": privileged, "reason": reason(arguments)}))
