"""safe-modprobectl: the parser of the whole command line, and the way out for every error."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from safe_modprobe import __version__
from safe_modprobe.admin.commands.parsers import Formatter
from safe_modprobe.errors import SafeModprobeError

_EXAMPLES = """examples:
  safe-modprobectl enable                         switch on, now and at every boot
  safe-modprobectl status                         is it on, does it protect, what is wrong
  safe-modprobectl explain net-pf-38 --uid 1000   what a user would get, and why
  safe-modprobectl reload                         check the policy after an edit
  safe-modprobectl allow sctp --user asterisk --reason "SIP over SCTP"
"""

COMMANDS = (
    "enable", "disable", "status", "reload", "check", "explain", "allow", "mark", "unmark", "scan", "surface", "log",
    "repeats", "metrics", "suggest", "test",
)  # fmt: skip
"""In the order of a day's work; each is a module of this folder."""


def parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser, with these subcommands' own parts.

    One alone is imported without the others: it starts in half the time, and `disable` works when another is broken.
    """
    top = argparse.ArgumentParser(
        prog="safe-modprobectl",
        description="Switch safe-modprobe on and off, check its policy, and ask it why.",
        epilog=_EXAMPLES,
        formatter_class=Formatter,
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name in names:
        import_module(f"safe_modprobe.admin.commands.{name}").add_parser(commands)
    return top


def main(argv: Sequence[str]) -> int:
    """The exit code: the subcommand's own, 1 for an error (one sentence on stderr), 2 for wrong usage."""
    _open_what_is_closed()
    _print_whatever_the_locale()
    try:
        try:
            arguments = parser(argv[:1] if argv[:1] and argv[0] in COMMANDS else COMMANDS).parse_args(argv)
            code: int = arguments.run(arguments)
        except SystemExit:  # argparse's, after --help and --version, too
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up_output()
        return 1
    except KeyboardInterrupt:
        return 130  # the shell's number for SIGINT; what changes anything has put it back or was done
    except SafeModprobeError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        name = (error.name or "safe_modprobe").partition(".")[0]
        if name == "safe_modprobe":
            return _fail(f"{error.name} is not there for this Python; install the package anew")
        package = f"python3-{'pyelftools' if name == 'elftools' else name}"
        return _fail(f"Python's module {name} is not installed, which this needs; Debian's {package} has it")
    except OSError as error:
        _give_up_output()
        what = error.strerror or str(error)
        return _fail(f"{error.filename}: {what}" if error.filename else what)
    return code


def _open_what_is_closed() -> None:
    """Whoever closed a standard stream wants to hear nothing; a file of ours must not get its number instead."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        if fd == 1:
            sys.stdout = open(fd, "w")
        elif fd == 2:
            sys.stderr = open(fd, "w")
    os.close(fd)


def _print_whatever_the_locale() -> None:
    """What a locale's encoding lacks (an arrow, a reason in another script) comes out as an escape."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _give_up_output() -> None:
    """What cannot be written now cannot be at the interpreter's end, which would make a 120 of the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    print(f"safe-modprobectl: {message}", file=sys.stderr)
    return 1
