"""What the subcommands' parsers have in common, so that the same option is the same everywhere."""

import argparse
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
else:
    Commands = object
"""The type of argparse's collection of subcommands, which it does not name in public."""


def add_command(
    commands: Commands, name: str, summary: str, description: str | None, examples: str
) -> argparse.ArgumentParser:
    """A subcommand's parser. `examples` are command lines, each with what it is for, shown below the options."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples.strip(chr(10))}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="for machines")


def add_root(parser: argparse.ArgumentParser) -> None:
    """`--root`: see machine.Machine."""
    parser.add_argument(
        "-d", "--root", metavar="DIR", help="look at the system below this folder, not at the running one"
    )


def add_kernel(parser: argparse.ArgumentParser) -> None:
    """`--kernel`: see machine.Machine."""
    parser.add_argument(
        "-S", "--kernel", metavar="VERSION", help="the modules of this kernel; default: the running one's"
    )
