"""`allow MODULE... --user NAME`: let the named users or units, and only them, have the kernel load a module."""

import argparse
from typing import Any

from safe_modprobe.admin.commands import machine
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_edit, uid_number
from safe_modprobe.errors import UsageError

_EXAMPLES = """
  safe-modprobectl allow sctp --user asterisk --reason "SIP over SCTP"
  safe-modprobectl allow algif_hash --unit bluetooth.service --reason "pairing"
  safe-modprobectl allow af_alg algif_skcipher --uid 1000 --until-reboot
"""


def add_parser(commands: Commands) -> None:
    """Add `allow`."""
    parser = add_command(commands, "allow", "let a user or a unit have the kernel load a module", __doc__, _EXAMPLES)
    parser.add_argument(
        "--user", action="append", default=[], metavar="NAME", help="user name in /etc/passwd, repeatable"
    )
    parser.add_argument("--uid", action="append", default=[], type=uid_number, metavar="N", help="user id, repeatable")
    parser.add_argument(
        "--unit",
        action="append",
        default=[],
        metavar="UNIT",
        help="systemd unit such as cron.service, repeatable; with a user, both must match",
    )
    add_edit(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the row. Return 0 when those callers are allowed the modules, also if they were before."""
    from safe_modprobe.admin.commands.edit_policy import RequestedEdit, Verb, apply_edit, reason  # imports tomlkit

    row: dict[str, Any] = {"users": [*arguments.user, *arguments.uid], "units": arguments.unit}
    row = {key: list(dict.fromkeys(value)) for key, value in row.items() if value}
    if not row:
        raise UsageError("allow: name callers with --user, --uid or --unit, or 'unmark' the module for everyone")
    uids = (*map(machine.from_arguments(arguments).uid, arguments.user), *arguments.uid)
    for unit in arguments.unit:
        _check_unit(unit)
    row |= {"action": "allow", "reason": reason(arguments)}
    return apply_edit(arguments, RequestedEdit(Verb.ALLOW, row, None, uids, tuple(arguments.unit)))


def _check_unit(unit: str) -> None:
    """Raise UsageError unless the name ends in a dot and a unit type. `*` and `?` are wildcards in it."""
    stem, dot, kind = unit.rpartition(".")
    if (
        not dot
        or not stem
        or not unit.isprintable()
        or kind not in ("service", "scope", "slice", "socket", "mount", "swap")
    ):
        raise UsageError(f"--unit: {unit!a} is not a unit name; it must end in a unit type, as in 'cron.service'")
    if "[" in unit:
        raise UsageError(f"--unit: {unit!a} contains a '['; only * and ? are wildcards here")
