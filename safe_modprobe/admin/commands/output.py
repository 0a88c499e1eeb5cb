"""How subcommands speak: JSON for machines, tables for people. Colours only on a terminal.

rich is imported where a table is drawn: switching on and off, and JSON, must not depend on it.
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

_WIDE = 10_000
_HIGH = 25
"""Nothing of ours goes by it; rich would ask LINES."""

_STYLES = {"allow": "green", "log": "yellow", "deny": "red"}


def print_json(value: object) -> None:
    """One JSON value, in ASCII: names are attacker's bytes."""
    import json  # where it is asked for

    print(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Rows under their headings; numbers to the right. Off a terminal nothing is cut or wrapped."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"  # a path is of no use without its end
    for row in rows:
        for column, value in zip(table.columns, row, strict=True):
            if isinstance(value, int):
                column.justify = "right"
        texts = ["" if value is None else printable(str(value)) for value in row]
        table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in texts))
    console().print(table)


def printable(text: str) -> str:
    """Untrusted text for a terminal: what it could do to one, and what is not UTF-8, as escapes."""
    return "".join(char if char.isprintable() else escape(char) for char in text)


def count_noun(number: int, thing: str) -> str:
    """`no files`, `1 file`, `2 files`."""
    return f"{number or 'no'} {thing}{'s' if number != 1 else ''}"


def row_counts(*policies: Policy) -> dict[str, int]:
    """How many rows of each kind they have together."""
    return {key: sum(len(getattr(each, key)) for each in policies) for key in ("rules", "marks", "call_sites")}


def rows_counted(*policies: Policy) -> str:
    """`12 rules, 1 mark, no call sites`."""
    return ", ".join(count_noun(count, key[:-1].replace("_", " ")) for key, count in row_counts(*policies).items())


def local_time(time: "datetime") -> str:
    """A time for people, in the local time zone."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def console(errors: bool = False) -> "Console":
    """rich's console on standard output, or error: NO_COLOR counts, and a pipe gets plain, unwrapped text."""
    from rich.console import Console

    terminal = (sys.stderr if errors else sys.stdout).isatty()
    # rich itself takes 0 in COLUMNS for no room at all, and cannot start with some of what is there for no number.
    return Console(stderr=errors, highlight=False, width=terminal_width() if terminal else _WIDE, height=_HIGH)
