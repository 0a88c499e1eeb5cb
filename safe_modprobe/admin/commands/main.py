"""safe-modprobectl: parse the command line, run the subcommand, and turn an error into one sentence on stderr."""

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
"""The subcommands in the order of --help, the everyday ones first. Each is a module of this folder."""


def parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the command line, with these subcommands only.

    main() asks for one. That starts in half the time, and `disable` works while another subcommand is broken.
    """
    top = argparse.ArgumentParser(
        prog="safe-modprobectl",
        description="Switch safe-modprobe on and off, check its policy, and explain its decisions.",
        epilog=_EXAMPLES,
        formatter_class=Formatter,
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name in names:
        import_module(f"safe_modprobe.admin.commands.{name}").add_parser(commands)
    return top


def main(argv: Sequence[str]) -> int:
    """Run a command line. Return the subcommand's exit code, or 1 after an error. Wrong usage raises SystemExit(2)."""
    _open_closed_streams()
    _escape_unencodable_output()
    try:
        try:
            arguments = parser(argv[:1] if argv[:1] and argv[0] in COMMANDS else COMMANDS).parse_args(argv)
            code: int = arguments.run(arguments)
        except SystemExit:  # argparse raises it after --help, --version and wrong usage.
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 1
    except KeyboardInterrupt:
        return 130  # The shell's status for SIGINT. By now a change was either finished or undone.
    except SafeModprobeError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        name = (error.name or "safe_modprobe").partition(".")[0]
        if name == "safe_modprobe":
            return _fail(f"{error.name} is missing for this version of Python; reinstall the package")
        package = f"python3-{'pyelftools' if name == 'elftools' else name}"
        return _fail(f"the Python module {name} is missing; install it (Debian package {package})")
    except OSError as error:
        _discard_output()
        reason = error.strerror or str(error)
        return _fail(f"{error.filename}: {reason}" if error.filename else reason)
    return code


def _open_closed_streams() -> None:
    """Open /dev/null on closed standard streams so that no other file gets descriptor 0, 1 or 2."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        if fd == 1:
            sys.stdout = open(fd, "w")
        elif fd == 2:
            sys.stderr = open(fd, "w")
    os.close(fd)


def _escape_unencodable_output() -> None:
    """Print characters that the locale cannot encode (an arrow, a reason in another script) as escapes."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Discard output that cannot be written. The interpreter would try again at exit, and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    print(f"safe-modprobectl: {message}", file=sys.stderr)
    return 1
