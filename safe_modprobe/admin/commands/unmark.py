"""`unmark MODULE... --reason TEXT`: remove a module's mark from the policy. The module's own marker stays."""

import argparse

from safe_modprobe.admin.commands.parsers import Commands, add_command, add_edit
from safe_modprobe.model import BY_MARKER

_EXAMPLES = """
  safe-modprobectl unmark sctp --reason "all users of this machine may use it"
  safe-modprobectl unmark af_alg --until-reboot   while a benchmark runs
"""


def add_parser(commands: Commands) -> None:
    """Add `unmark`."""
    parser = add_command(commands, "unmark", "remove a module's mark from the policy", __doc__, _EXAMPLES)
    parser.add_argument(
        "--over-marker",
        action="store_true",
        help="open the module to everyone, against its own marker and the mode 'privileged'",
    )
    add_edit(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Remove the mark. Return 0 when users may have the modules loaded, also if they could before."""
    from safe_modprobe.admin.commands.edit_policy import RequestedEdit, Verb, apply_edit, reason  # imports tomlkit

    privileged = False if arguments.over_marker else BY_MARKER
    return apply_edit(arguments, RequestedEdit(Verb.UNMARK, {"privileged": privileged, "reason": reason(arguments)}))
