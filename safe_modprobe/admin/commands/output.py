"""The output of the subcommands: JSON for programs, and tables for people, coloured on a terminal.

rich is imported only where a table is drawn, so that `enable`, `disable` and JSON output work without it.
"""

import sys
from collections.abc import Iterable, Sequence

from safe_modprobe.admin.commands.parsers import terminal_width
from safe_modprobe.escape import escape
from safe_modprobe.light_types import TYPE_CHECKING
from safe_modprobe.model import Policy

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

_PIPE_WIDTH = 10_000
"""Columns of output that is not a terminal. Such a table must not be wrapped."""

_HEIGHT = 25
"""Lines. No output depends on the height; a fixed value keeps rich from reading LINES."""

_STYLES = {"allow": "green", "log": "yellow", "deny": "red"}


def print_json(value: object) -> None:
    """Print a JSON value in ASCII, because names may contain bytes that an attacker chose."""
    import json  # Only --json needs it.

    print(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table; columns of numbers are right-aligned. Off a terminal nothing is cut or wrapped."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"  # A path without its end is useless.
    for row in rows:
        for column, value in zip(table.columns, row, strict=True):
            if isinstance(value, int):
                column.justify = "right"
        texts = ["" if value is None else printable(str(value)) for value in row]
        table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in texts))
    console().print(table)


def printable(text: str) -> str:
    """Return untrusted text for a terminal, with unprintable characters and invalid UTF-8 as escapes."""
    return "".join(char if char.isprintable() else escape(char) for char in text)


def count_noun(number: int, thing: str) -> str:
    """Return a phrase such as `no files`, `1 file` or `2 files`."""
    return f"{number or 'no'} {thing}{'s' if number != 1 else ''}"


def row_counts(*policies: Policy) -> dict[str, int]:
    """Return how many rules, marks and call sites the policies have together."""
    return {key: sum(len(getattr(each, key)) for each in policies) for key in ("rules", "marks", "call_sites")}


def rows_counted(*policies: Policy) -> str:
    """Return a phrase such as `12 rules, 1 mark, no call sites`."""
    return ", ".join(count_noun(count, key[:-1].replace("_", " ")) for key, count in row_counts(*policies).items())


def local_time(time: "datetime") -> str:
    """Return a time as text, in the local time zone."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def console(errors: bool = False) -> "Console":
    """Return rich's console for standard output, or for standard error. A pipe gets plain, unwrapped text."""
    from rich.console import Console

    terminal = (sys.stderr if errors else sys.stdout).isatty()
    # The width is given because rich draws nothing for COLUMNS=0, and fails for some COLUMNS that are not a number.
    return Console(stderr=errors, highlight=False, width=terminal_width() if terminal else _PIPE_WIDTH, height=_HEIGHT)
