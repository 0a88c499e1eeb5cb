"""What the subcommands' parsers have in common, so that the same option is the same everywhere."""

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
"""Where there is no terminal."""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal, by os instead of shutil, which brings all compressors to every start of a parser."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=terminal_width() - 2)


def terminal_width() -> int:
    """How wide the terminal is, or whatever standard output is: COLUMNS says so where it is a number above 0."""
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:  # no number, or one of thousands of digits
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
    """A subcommand's parser. `examples` are command lines, each with what it is for, shown below the options."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples.strip(chr(10))}",
        formatter_class=Formatter,
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="for machines")


def add_root(parser: argparse.ArgumentParser) -> None:
    """`--root` alone, where no modules are looked at."""
    parser.add_argument(
        "-d", "--root", metavar="DIR", help="look at the system below this folder, not at the running one"
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """`--root` and `--kernel`: see machine.Machine."""
    add_root(parser)
    parser.add_argument(
        "-S", "--kernel", metavar="VERSION", help="the modules of this kernel; default: the running one's"
    )


def add_edit(parser: argparse.ArgumentParser) -> None:
    """What the subcommands that write a row have in common."""
    parser.add_argument("modules", nargs="+", metavar="MODULE", help="a module's name, as lsmod shows it")
    parser.add_argument("--reason", metavar="TEXT", help="why, for whoever reads the policy next")
    parser.add_argument("--until-reboot", action="store_true", help="below /run instead of /etc; needs no reason")
    parser.add_argument("--force", action="store_true", help="even if this kernel has no such module")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and write nothing")
    add_machine(parser)
    add_json(parser)


def uid_number(text: str) -> int:
    """An option's user id. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text[:11]) <= UID_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {UID_MAX}")
    return int(text)


def capability_named(text: str) -> Capability:
    """An option's capability. Raises ArgumentTypeError."""
    found = parse_capability(text.upper())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a capability such as CAP_NET_ADMIN")
    return found
