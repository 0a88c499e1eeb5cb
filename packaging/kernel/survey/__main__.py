"""List every request_module() of a kernel's sources, the names it requests, and the capability the series declares.

This file handles arguments, output and the exit code.
"""

import argparse
import signal
import sys
from pathlib import Path

from survey import show
from survey.model import Survey, SurveyError, Use
from survey.series import applied
from survey.tree import survey

SERIES = sorted((Path(__file__).resolve().parents[1] / "patches").glob("series.*"))
"""The series of this folder, one per kernel version."""

_EXAMPLES = """\
examples:
  make survey KERNEL_SRC=/usr/src/linux-source-6.1
  make survey KERNEL_SRC=linux ARGS=--json | jq -r '.calls[] | select(.capability == null).name'
  make survey KERNEL_SRC=linux ARGS=--no-series

The tree must be clean (make mrproper), because files that a build makes repeat the sources' text.
Exit code: 0 for success; 1 for an error, or if a mention was not understood. Such mentions are listed.
"""


def main(arguments: list[str] | None = None) -> int:
    """Print the survey, and return the exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # A reader such as head(1) may close the pipe early.
    given = _parser().parse_args(arguments)
    try:
        found = survey(given.tree, None if given.no_series else applied(given.tree, given.series or SERIES))
    except SurveyError as error:
        print(f"survey: {_printable(str(error))}", file=sys.stderr)
        return 1
    for line in show.markdown(found) if given.markdown else [show.to_json(found)] if given.json else show.text(found):
        print(_printable(line))
    return _not_understood(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="survey", description=__doc__.partition("\n\n")[0] if __doc__ else "", epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("tree", metavar="KERNEL_SRC", type=Path, help="the top of a tree of Linux")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, including mentions that are not calls")
    form.add_argument("--markdown", action="store_true", help="print the tables of docs/call-sites")
    series = parser.add_mutually_exclusive_group()
    series.add_argument(
        "--series",
        metavar="FILE",
        type=Path,
        nargs=1,
        help="a list of patches (default: our first that applies)",
    )
    series.add_argument("--no-series", action="store_true", help="survey the tree as it is, for example a patched one")
    return parser


def _not_understood(found: Survey) -> int:
    """Report the mentions that were not understood, and return the exit code."""
    unknown = [mention for mention in found.mentions if mention.use is Use.UNKNOWN]
    for mention in unknown:
        place = _printable(f"{mention.file}:{mention.line}: '{mention.word}'")
        print(f"survey: {place} is in C that the parser does not understand; check it by hand", file=sys.stderr)
    return 1 if unknown else 0


def _printable(text: str) -> str:
    """Escape control characters, because file names and sources may contain any bytes."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


if __name__ == "__main__":
    sys.exit(main())
