"""The surface as one page for an auditor: nothing on it comes from elsewhere, and nothing on it runs.

Names, reasons and paths are bytes of whoever wrote a module or named a file, so jinja2 escapes every value, and what a
page could not show, or would show as something else, is spelt out before.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from safe_modprobe.admin.commands.output import printable
from safe_modprobe.admin.commands.surface_charts import bars

_MOST_BARS = 24
_VERDICTS = {"allow": "loaded", "log": "loaded, logged", "deny": "refused"}


def page(report: Mapping[str, Any]) -> str:
    """HTML of what surface.as_json() says."""
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    jinja.filters |= {"place": _place, "utc": _utc}
    return jinja.get_template("surface.html.jinja").render(
        report=report,
        verdicts=_VERDICTS,
        judged=tuple(_judged(row, report["callers"]) for row in report["modules"]),
        open_to=tuple(_open_to(report)),
        callers_chart=_callers_chart(report["callers"]),
        families_chart=_families_chart(report),
    )


def _shown(value: object) -> object:
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)


def _place(origin: str) -> str:
    """The file's own name and the line: its folder is in the list of files."""
    return origin.rpartition("/")[2]


def _utc(when: str) -> str:
    return when.replace("T", " ").replace("+00:00", " UTC")


def _open_to(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What stays open to whoever has no right to it, by the line that says so; to the second, what it has besides."""
    had: set[str] = set()
    families = {each["family"]: each for each in report["families"]}
    for caller in report["callers"][:2]:
        groups: dict[tuple[str, str, str], list[str]] = {}
        for row in report["modules"]:
            found = row["callers"].get(caller["key"])
            if found is not None and found["verdict"] != "deny" and row["module"] not in had:
                groups.setdefault((found["family"], found["reason"], found["origin"]), []).append(row["module"])
        had |= {module for modules in groups.values() for module in modules}
        ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
        yield {
            "caller": caller,
            "groups": [
                {"family": families[family], "reason": why, "origin": origin, "modules": modules}
                for (family, why, origin), modules in ordered
            ],
        }


def _judged(row: Mapping[str, Any], callers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A module with what its callers get; who gets the same for the same reason shares a line."""
    lines: list[dict[str, Any]] = []
    for caller in callers:
        found = row["callers"].get(caller["key"])
        if found is None:
            continue
        if lines and lines[-1]["found"] == found:
            lines[-1]["callers"].append(caller)
        else:
            lines.append({"callers": [caller], "found": found})
    return {"module": row["module"], "class": row["class"], "lines": lines}


def _callers_chart(callers: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [(each["title"], each["before"], each["after"]) for each in callers]
    return bars("callers-chart", "Modules that can be loaded, by caller", _said(rows), rows)


def _families_chart(report: Mapping[str, Any]) -> Markup:
    """For root of a user namespace, who reaches most."""
    key = report["callers"][1]["key"]
    rows = [
        (
            each["family"] + (" …" if len(each["patterns"]) > 1 else ""),
            each["callers"][key]["before"],
            each["callers"][key]["after"],
        )
        for each in report["families"]
        if key in each["callers"]
    ]
    rows = sorted(rows, key=lambda row: -row[1])[:_MOST_BARS]
    return bars("families-chart", "Modules that each family of requests brings in", _said(rows), rows)


def _said(rows: Sequence[tuple[str, int, int]]) -> str:
    return "; ".join(f"{label}: {before} before the policy, {after} with it" for label, before, after in rows)
