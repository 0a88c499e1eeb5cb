"""Edit a drop-in's text: insert a row, or remove a module's name. All other rows, comments and spaces stay as they are.

Only the table that changes goes through tomlkit, which moves comments and tables of a file where [[mark]] and [[rule]]
alternate. The result is parsed and compared with the intended one.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tomli
import tomlkit
from tomlkit.items import Array

from safe_modprobe.errors import PolicyError
from safe_modprobe.policy.lines import lines_of

Row = Mapping[str, Any]


def rows_of(text: str, table: str) -> list[dict[str, Any]]:
    """Return the rows of one table, in order. Here and below, `text` must be a valid policy."""
    rows: list[dict[str, Any]] = tomli.loads(text).get(table, [])
    return rows


def line_of(text: str, table: str, index: int) -> int:
    """Return the line on which a row starts, counted from 1."""
    return lines_of(text)[(table, index)]


def row_at(text: str, table: str, line: int) -> int | None:
    """Return the index of the first row of this table that starts on this line, or None."""
    lines = lines_of(text)
    rows = range(len(rows_of(text, table)))
    return next((index for index in rows if lines[(table, index)] == line), None)


def with_row(text: str, table: str, row: Row, at: int) -> str:
    """Return the text with `row` inserted before the row at index `at`, or at the end. Raises PolicyError."""
    meant = tomli.loads(text)
    rows = meant.setdefault(table, [])
    line = lines_of(text)[(table, at)] if at < len(rows) else None
    rows.insert(at, _plain(row))
    pieces = _Pieces(text)
    if pieces.is_array(table):
        pieces.change(table, 0, lambda piece: piece[table].insert(at, _inline(row)))
    else:
        pieces.insert(f"[[{table}]]\n{tomlkit.dumps(_plain(row))}", line)
    return _checked(pieces.text(), meant)


def without_module(text: str, table: str, index: int, module: str) -> str:
    """Return the text without this name in the row's `modules`; a row left without a name is removed.

    Raises PolicyError.
    """
    meant = tomli.loads(text)
    modules = meant[table][index]["modules"]
    kept = [name for name in modules if not same_name(name, module)]
    pieces = _Pieces(text)
    array = pieces.is_array(table)
    if kept:
        meant[table][index]["modules"] = kept
        at = index if array else 0
        pieces.change(table, 0 if array else index, lambda piece: _remove_name(piece[table][at]["modules"], module))
    else:
        del meant[table][index]
        if not meant[table]:
            del meant[table]
        if array and table in meant:
            pieces.change(table, 0, lambda piece: piece[table].pop(index))
        else:
            pieces.remove(table, 0 if array else index)
    return _checked(pieces.text(), meant)


def same_name(one: str, other: str) -> bool:
    """Whether both name the same module. - equals _, as in libkmod."""
    return one.replace("-", "_") == other.replace("-", "_")


def _plain(row: Row) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


def _inline(row: Row) -> Any:
    table = tomlkit.inline_table()
    table.update(copy.deepcopy(_plain(row)))
    return table


def _remove_name(modules: Array, module: str) -> None:
    for index in reversed(range(len(modules))):
        if same_name(modules[index], module):
            modules.pop(index)


def _checked(text: str, intended: Mapping[str, Any]) -> str:
    """Return the text. Raises PolicyError if it does not parse to the intended policy."""
    try:
        result = tomli.loads(text.replace("\r\n", "\n"))
    except tomli.TOMLDecodeError:
        result = None
    if result != intended:
        raise PolicyError("the file is written in a way that cannot be edited safely; edit it by hand")
    return text


class _Pieces:
    """A text as lines, and the lines on which its tables start."""

    def __init__(self, text: str) -> None:
        self.newline = "\r\n" if "\r\n" in text else "\n"
        plain = text.replace("\r\n", "\n")
        self.lines = _split(plain)
        self.starts = lines_of(plain)

    def text(self) -> str:
        return "".join(self.lines).replace("\n", self.newline)

    def is_array(self, table: str) -> bool:
        """Whether the table is written as `table = [...]` and not as `[[table]]`."""
        line = self.starts.get((table,))
        return line is not None and not self.lines[line - 1].lstrip().startswith("[")

    def change(self, table: str, index: int, edit: Callable[[Any], object]) -> None:
        """Let tomlkit edit one piece: a row, or a whole inline array."""
        first, end = self._span(table, index)
        piece = tomlkit.parse("".join(self.lines[first:end]))
        edit(piece)
        self.lines[first:end] = _split(tomlkit.dumps(piece))

    def remove(self, table: str, index: int) -> None:
        """Remove a piece and the empty lines after it; at the end of the file, those before it."""
        first, end = self._span(table, index)
        if end == len(self.lines):
            while first and not self.lines[first - 1].strip():
                first -= 1
        self.lines[first:end] = []

    def insert(self, block: str, line: int | None) -> None:
        """Insert the block before this line and the comment directly above it; at the end if `line` is None."""
        if line is None:
            gap = ["\n"] if self.lines and self.lines[-1].strip() else []
            self.lines += [*gap, *_split(block)]
            return
        at = line - 1
        while at and self.lines[at - 1].lstrip().startswith("#"):
            at -= 1
        self.lines[at:at] = [*_split(block), "\n"]

    def _span(self, table: str, index: int) -> tuple[int, int]:
        """Return the piece's range of lines. Comments before the next table belong to that table."""
        path = (table,) if self.is_array(table) else (table, index)
        first = self.starts[path] - 1
        others = sorted({self.starts[each] - 1 for each in self.starts if self._is_start(each)} - {first})
        end = next((line for line in others if line > first), len(self.lines))
        last = end
        while last > first + 1 and self._is_between(last - 1):
            last -= 1
        # Empty lines directly after the piece belong to it; those after a comment do not.
        while last < end and not self.lines[last].strip():
            last += 1
        return first, last

    def _is_start(self, path: Sequence[str | int]) -> bool:
        """Whether a table starts here, or a key above all tables."""
        return len(path) == 1 or (len(path) == 2 and isinstance(path[1], int) and not self.is_array(str(path[0])))

    def _is_between(self, line: int) -> bool:
        text = self.lines[line].strip()
        return not text or text.startswith("#")


def _split(text: str) -> list[str]:
    """Split at newlines as TOML does. str.splitlines() would also split at a form feed or U+2028."""
    return [f"{line}\n" for line in text.removesuffix("\n").split("\n")] if text else []
