"""Format a survey as text, JSON, or the Markdown tables of docs/."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from survey.model import Call, Kind, Survey, Use

_HEAD = """# request_module() in Linux {version}

Made by `make call-sites` from Debian's sources. [How it is counted, and how to read it](README.md).
"""
_COLUMNS = ("place", "function", "call", "format", "asks for", "capability")


def text(survey: Survey) -> Iterator[str]:
    """Yield a line per call in grep(1)'s format, and then the counts."""
    for call in survey.calls:
        yield (
            f"{call.file}:{call.line}: {call.function or '?'}: {call.api}({call.format}): {call.kind} {call.name}"
            f" [{_capability(survey, call)}]"
        )
    yield ""
    for title, rows in _counts(survey):
        yield f"{title}: " + ", ".join(f"{count} {name}" for name, count in rows)
    if survey.series:
        yield f"not covered by the series: {len(survey.uncovered)} of {len(survey.calls)} calls"
        for name, files in _uncovered(survey):
            yield f"  {name}: {', '.join(files)}"


def to_json(survey: Survey) -> str:
    """Return the whole survey as JSON, including mentions that are not calls."""
    found = asdict(survey)
    found["calls"] = [{**asdict(call), "prefix": call.prefix, "kind": call.kind} for call in survey.calls]
    found["counts"] = {title: dict(rows) for title, rows in _counts(survey)}
    return json.dumps(found, indent=1)


def markdown(survey: Survey) -> Iterator[str]:
    """Yield the lines of the tables in docs/call-sites."""
    yield _HEAD.format(version=survey.version)
    yield from _table(
        ("what", "count"),
        [(f"{title}: {name}", str(count)) for title, rows in _counts(survey) for name, count in rows],
    )
    yield "\n## Calls\n"
    yield from _table(
        _COLUMNS,
        [
            (
                f"{call.file}:{call.line}",
                call.function,
                call.api,
                _code(call.format),
                _code(call.name),
                _capability(survey, call),
            )
            for call in survey.calls
        ],
    )
    if survey.series:
        yield "\n## What the series does not cover\n"
        yield from _table(
            ("asks for", "files"), [(_code(name), ", ".join(files)) for name, files in _uncovered(survey)]
        )


def _counts(survey: Survey) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Yield (title, [(name, count), …])."""
    grep = survey.grep
    rest = grep.lines - grep.constant - grep.formatted
    yield (
        "lines as in 2017",
        [("in all", grep.lines), ("constant", grep.constant), ("with %", grep.formatted), ("else", rest)],
    )
    uses = Counter(mention.use for mention in survey.mentions)
    yield "mentions", [("in all", len(survey.mentions)), *((use.value, uses[use]) for use in Use if uses[use])]
    kinds = Counter(call.kind for call in survey.calls)
    yield "calls", [("in all", len(survey.calls)), *((kind.value, kinds[kind]) for kind in Kind)]


def _uncovered(survey: Survey) -> list[tuple[str, list[str]]]:
    """Return (requested name, files) for the calls that the series does not change."""
    found: dict[str, dict[str, None]] = {}
    for call in survey.uncovered:
        found.setdefault(call.name, {})[call.file] = None
    return sorted((name, list(files)) for name, files in found.items())


def _capability(survey: Survey, call: Call) -> str:
    if call.capability is not None:
        return "none (0)" if call.capability == "0" else call.capability
    return "not covered" if survey.series else "not looked up"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    head = list(head)
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
