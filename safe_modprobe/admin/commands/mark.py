"""`mark MODULE... --reason TEXT`: let only privileged callers have the kernel load it."""

import argparse

from safe_modprobe.admin.commands.parsers import Commands, add_command, add_edit, capability_named
from safe_modprobe.capability import name_of

_EXAMPLES = """
  safe-modprobectl mark tun --reason "only root sets up tunnels"
  safe-modprobectl mark ksmbd --cap CAP_NET_ADMIN --reason "network administrators only"
  safe-modprobectl mark tun --until-reboot --dry-run   what would be written below /run
"""


def add_parser(commands: Commands) -> None:
    """Add `mark`."""
    parser = add_command(commands, "mark", "require privilege for a module", __doc__, _EXAMPLES)
    parser.add_argument(
        "--cap",
        type=capability_named,
        metavar="CAP",
        help="the capability that suffices; default: the one that suffices now, or CAP_SYS_MODULE",
    )
    add_edit(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the mark. Return 0 when the modules are marked, also if they were before."""
    from safe_modprobe.admin.commands.edit_policy import RequestedEdit, Verb, apply_edit, reason  # imports tomlkit

    privileged = True if arguments.cap is None else name_of(arguments.cap)
    row = {"privileged": privileged, "reason": reason(arguments)}
    return apply_edit(arguments, RequestedEdit(Verb.MARK, row, arguments.cap))
