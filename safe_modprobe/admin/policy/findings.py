"""What is to be said of policy files: every error of every file, where build() stops at the first.

Pure, and for the desk: the helper itself stops at the first one, and takes none of this along.
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
    """How much a finding weighs: the policy does not hold, it is likely not what was meant, it is good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Finding(NamedTuple):
    """One thing to say; `line` is 0 for a whole file, and `key` is empty where it is of no single key or table."""

    severity: Severity
    path: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        """A compiler's line, which editors can follow; an error's is the sentence that the helper would log."""
        place = f"{self.path}:{self.line}" if self.line else self.path
        what = "" if self.severity is Severity.ERROR else str(self.severity)
        return ": ".join(filter(None, (place, what, self.key, self.message)))


class ParsedPolicy(NamedTuple):
    """The policy of some files, and where everything stands in them. The documents are in the order of precedence."""

    policy: Policy
    documents: tuple[Document, ...]

    def rows(self, table: str) -> list["Place"]:
        """The places of policy.marks, .call_sites or .rules, in the same order."""
        return [
            Place(document, (table, index))
            for document in self.documents
            for index in range(len(document.tables.get(table, ())))
        ]


class Place(NamedTuple):
    """A row, and the file that it stands in."""

    document: Document
    row: Path

    def finding(self, severity: Severity, key: str, message: str) -> Finding:
        """About this key, or about the row, where it has none of that name."""
        path = (*self.row, key)
        return Finding(severity, self.document.path, self.document.line(path), key or str(self.row[0]), message)

    def __str__(self) -> str:
        return f"{self.document.name}:{self.document.line(self.row)}"


def parse_and_check(files: Sequence[tuple[str, bytes]], accounts: Accounts) -> ParsedPolicy | list[Finding]:
    """The sheet of (path, content) in the order of precedence, or everything that is wrong in them.

    Each row's keys are tried one by one, and the row as a whole where they all are right.
    """
    found: list[Finding] = []
    documents = []
    for path, content in files:
        document = _tried(found, Document, path, content)
        if document is not None:
            documents.append(document)
    names: dict[str, Origin] = {}
    for document in documents:
        found += _of(Builder(document, accounts), names)
    if found:
        return found
    return ParsedPolicy(build(files, accounts), tuple(documents))


def _of(builder: Builder, names: dict[str, Origin]) -> list[Finding]:
    found: list[Finding] = []
    whole: Mapping[str, Callable[[Path, dict[str, Any]], object]] = {
        "settings": lambda path, values: None,
        "mark": builder.mark,
        "call_site": builder.call_site,
        "rule": lambda path, values: builder.rule(path, values, names),
    }
    for table, value in builder.document.tables.items():
        count = len(found)
        _tried(found, builder.check_table, table, value)
        if len(found) > count:
            continue
        if table == "settings":
            found += _of_row(builder, (table,), value, whole[table])
            continue
        for index, row in enumerate(value):
            found += _of_row(builder, (table, index), row, whole[table])
    # The order of the file: TOML lets the rows of two tables take turns.
    return sorted(found, key=lambda finding: finding.line)


def _of_row(
    builder: Builder, path: Path, row: Mapping[str, Any], whole: Callable[[Path, dict[str, Any]], object]
) -> list[Finding]:
    found: list[Finding] = []
    values: dict[str, Any] = {}
    for key, value in row.items():
        checked = _tried(found, builder.checked, path, {key: value})
        values |= checked or {}
    if not found:
        _tried(found, whole, path, values)
    return found


def _tried(found: list[Finding], work: Callable[..., _T], *values: Any) -> _T | None:
    """What the work gives; None, and its error among the findings."""
    try:
        return work(*values)
    except PlacedError as error:
        found.append(Finding(Severity.ERROR, error.path, error.line, error.key, error.message))
    return None
