"""Options and argument types that several subcommands share, so that an option is the same in each of them."""

import argparse
import os

from safe_modprobe.capability import Capability, parse_capability
from safe_modprobe.light_types import TYPE_CHECKING
from safe_modprobe.model import UID_MAX

if TYPE_CHECKING:
    from typing import TypeAlias

    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
else:
    Commands = object
"""The type of argparse's collection of subcommands, which it does not name in public."""

_COLUMNS = 80
"""The width where standard output is not a terminal."""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Format help for the width of the terminal. argparse's own formatter imports shutil, which is slow to import."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=terminal_width() - 2)


def terminal_width() -> int:
    """Return the columns of standard output. The environment's COLUMNS takes precedence if it is above 0."""
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:  # int() also refuses a number of more than 4300 digits.
        columns = 0
    if columns > 0:
        return columns
    try:
        return os.get_terminal_size().columns or _COLUMNS
    except OSError:
        return _COLUMNS


def add_command(
    commands: Commands, name: str, summary: str, description: str | None, examples: str
) -> argparse.ArgumentParser:
    """Add a subcommand and return its parser. `examples` are command lines with explanations, for the end of --help."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples.strip(chr(10))}",
        formatter_class=Formatter,
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add `--root`, for a subcommand that reads no modules."""
    parser.add_argument(
        "-d", "--root", metavar="DIR", help="use the system below this folder instead of the running system"
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add `--root` and `--kernel`; see machine.Machine."""
    add_root(parser)
    parser.add_argument(
        "-S", "--kernel", metavar="VERSION", help="use the modules of this kernel version; default: the running kernel"
    )


def add_edit(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommands that write a row of the policy."""
    parser.add_argument("modules", nargs="+", metavar="MODULE", help="a module's name, as lsmod shows it")
    parser.add_argument("--reason", metavar="TEXT", help="the reason for the row; it is written into the policy")
    parser.add_argument(
        "--until-reboot",
        action="store_true",
        help="write to /run instead of /etc, until the next boot; needs no reason",
    )
    parser.add_argument("--force", action="store_true", help="write the row even if this kernel has no such module")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, but write nothing")
    add_machine(parser)
    add_json(parser)


def uid_number(text: str) -> int:
    """Parse a user id for argparse. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text[:11]) <= UID_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {UID_MAX}")
    return int(text)


def capability_named(text: str) -> Capability:
    """Parse the name of a capability for argparse. Raises ArgumentTypeError."""
    found = parse_capability(text.upper())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a capability such as CAP_NET_ADMIN")
    return found
