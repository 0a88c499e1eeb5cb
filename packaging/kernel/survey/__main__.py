"""Every request_module() of a kernel's sources, what it asks for, and which capability the series names there.

The edge: arguments, output, exit code.
"""

import argparse
import signal
import sys
from pathlib import Path

from survey import show
from survey.series import applied
from survey.tree import survey
from survey.words import Survey, SurveyError, Use

SERIES = sorted((Path(__file__).resolve().parents[1] / "patches").glob("series.*"))
"""Ours, for several kernels."""

_EXAMPLES = """\
examples:
  make survey KERNEL_SRC=/usr/src/linux-source-6.1
  make survey KERNEL_SRC=linux ARGS=--json | jq -r '.calls[] | select(.capability == null).name'
  make survey KERNEL_SRC=linux ARGS=--no-series

The tree must be clean (make mrproper): what was built from the sources has their words in it once more.
Exit code: 0; 1 for an error, or for a mention that was not understood, which is shown.
"""


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who reads may have seen enough
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
    form.add_argument("--json", action="store_true", help="for machines, with the mentions that are no calls")
    form.add_argument("--markdown", action="store_true", help="as in docs/call-sites")
    series = parser.add_mutually_exclusive_group()
    series.add_argument(
        "--series", metavar="FILE", type=Path, nargs=1, help="a list of patches (default: ours that applies)"
    )
    series.add_argument("--no-series", action="store_true", help="the tree as it is, a patched one for instance")
    return parser


def _not_understood(found: Survey) -> int:
    unknown = [mention for mention in found.mentions if mention.use is Use.UNKNOWN]
    for mention in unknown:
        place = _printable(f"{mention.file}:{mention.line}: '{mention.word}'")
        print(f"survey: {place} is in C that the parser does not understand; look at it by eye", file=sys.stderr)
    return 1 if unknown else 0


def _printable(text: str) -> str:
    """Names of files and what stands in them may be any bytes."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


if __name__ == "__main__":
    sys.exit(main())
