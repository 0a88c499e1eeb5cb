"""Find every error of every policy file, where build() stops at the first one.

Pure. Only the administrator's tool uses it; the helper stops at the first error.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Origin, Policy
from safe_modprobe.policy.lines import Path
from safe_modprobe.policy.schema import Accounts, Builder, Document, PlacedError, build

_T = TypeVar("_T")


class Severity(StrEnum):
    """ERROR: the policy is invalid. WARNING: a likely mistake. NOTE: information."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Finding(NamedTuple):
    """One finding. `line` is 0 for a whole file; `key` is "" when it concerns no single key or table."""

    severity: Severity
    path: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        """Return it in a compiler's format, which editors understand. An error is the sentence that the helper logs."""
        place = f"{self.path}:{self.line}" if self.line else self.path
        what = "" if self.severity is Severity.ERROR else str(self.severity)
        return ": ".join(filter(None, (place, what, self.key, self.message)))


class ParsedPolicy(NamedTuple):
    """A valid policy, and its documents in order of precedence, which know the place of every row."""

    policy: Policy
    documents: tuple[Document, ...]

    def rows(self, table: str) -> list["Place"]:
        """Return the places of this table's rows, in the order of policy.marks, .call_sites or .rules."""
        return [
            Place(document, (table, index))
            for document in self.documents
            for index in range(len(document.tables.get(table, ())))
        ]


class Place(NamedTuple):
    """A row, and the file that contains it."""

    document: Document
    row: Path

    def finding(self, severity: Severity, key: str, message: str) -> Finding:
        """Return a finding at this key's line, or at the row's line if the row does not have the key."""
        path = (*self.row, key)
        return Finding(severity, self.document.path, self.document.line(path), key or str(self.row[0]), message)

    def __str__(self) -> str:
        return f"{self.document.name}:{self.document.line(self.row)}"


def parse_and_check(files: Sequence[tuple[str, bytes]], accounts: Accounts) -> ParsedPolicy | list[Finding]:
    """Return the parsed policy of (path, content) in order of precedence, or every error in these files.

    Each key of a row is checked alone. The row as a whole is checked only when all its keys are valid.
    """
    found: list[Finding] = []
    documents = []
    for path, content in files:
        document = _try(found, Document, path, content)
        if document is not None:
            documents.append(document)
    names: dict[str, Origin] = {}
    for document in documents:
        found += _errors_of(Builder(document, accounts), names)
    if found:
        return found
    return ParsedPolicy(build(files, accounts), tuple(documents))


def _errors_of(builder: Builder, names: dict[str, Origin]) -> list[Finding]:
    found: list[Finding] = []
    row_checks: Mapping[str, Callable[[Path, dict[str, Any]], object]] = {
        "settings": lambda path, values: None,
        "mark": builder.mark,
        "call_site": builder.call_site,
        "rule": lambda path, values: builder.rule(path, values, names),
    }
    for table, value in builder.document.tables.items():
        count = len(found)
        _try(found, builder.check_table, table, value)
        if len(found) > count:
            continue
        if table == "settings":
            found += _errors_of_row(builder, (table,), value, row_checks[table])
            continue
        for index, row in enumerate(value):
            found += _errors_of_row(builder, (table, index), row, row_checks[table])
    # TOML lets the rows of two tables alternate, and `tables` groups them; sort by line to get the file's order.
    return sorted(found, key=lambda finding: finding.line)


def _errors_of_row(
    builder: Builder, path: Path, row: Mapping[str, Any], check_row: Callable[[Path, dict[str, Any]], object]
) -> list[Finding]:
    found: list[Finding] = []
    values: dict[str, Any] = {}
    for key, value in row.items():
        checked = _try(found, builder.checked, path, {key: value})
        values |= checked or {}
    if not found:
        _try(found, check_row, path, values)
    return found


def _try(found: list[Finding], work: Callable[..., _T], *values: Any) -> _T | None:
    """Return the work's result; on an error append it to the findings and return None."""
    try:
        return work(*values)
    except PlacedError as error:
        found.append(Finding(Severity.ERROR, error.path, error.line, error.key, error.message))
    return None
