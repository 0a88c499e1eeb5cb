"""Render the surface as one HTML page for an auditor. The page loads nothing from elsewhere and runs no script.

Names, reasons and paths are untrusted: their bytes come from the author of a module or of a file. jinja2 escapes every
value for HTML. Before that, characters that are not printable become escapes.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from safe_modprobe.admin.commands.output import printable
from safe_modprobe.admin.commands.surface_charts import bar_chart

_MOST_BARS = 24
_VERDICTS = {"allow": "loaded", "log": "loaded, logged", "deny": "refused"}


def render_page(report: Mapping[str, Any]) -> str:
    """Return the HTML page for a report of surface.as_json()."""
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escape_unprintable,
    )
    jinja.filters |= {"place": _file_name_and_line, "utc": _utc}
    return jinja.get_template("surface.html.jinja").render(
        report=report,
        verdicts=_VERDICTS,
        judged=tuple(_module_entry(row, report["callers"]) for row in report["modules"]),
        still_loadable=tuple(_still_loadable(report)),
        callers_chart=_callers_chart(report["callers"]),
        families_chart=_families_chart(report),
    )


def _escape_unprintable(value: object) -> object:
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)


def _file_name_and_line(origin: str) -> str:
    """Return the origin without the folder, which the page's list of files shows."""
    return origin.rpartition("/")[2]


def _utc(when: str) -> str:
    return when.replace("T", " ").replace("+00:00", " UTC")


def _still_loadable(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield, for the two kinds of unprivileged callers, the modules they can still load, grouped by the deciding line.

    The second kind can load all that the first can; its groups have only the modules that it can load in addition.
    """
    seen: set[str] = set()
    families = {each["family"]: each for each in report["families"]}
    for caller in report["callers"][:2]:
        groups: dict[tuple[str, str, str], list[str]] = {}
        for row in report["modules"]:
            found = row["callers"].get(caller["key"])
            if found is not None and found["verdict"] != "deny" and row["module"] not in seen:
                groups.setdefault((found["family"], found["reason"], found["origin"]), []).append(row["module"])
        seen |= {module for modules in groups.values() for module in modules}
        ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
        yield {
            "caller": caller,
            "groups": [
                {"family": families[family], "reason": reason, "origin": origin, "modules": modules}
                for (family, reason, origin), modules in ordered
            ],
        }


def _module_entry(row: Mapping[str, Any], callers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a module with a line for each outcome; consecutive callers with the same outcome share a line."""
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
    return bar_chart("callers-chart", "Modules that can be loaded, by caller", _describe(rows), rows)


def _families_chart(report: Mapping[str, Any]) -> Markup:
    """Draw the families for root of a user namespace, the unprivileged caller with the largest surface."""
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
    return bar_chart("families-chart", "Modules that each family of requests can load", _describe(rows), rows)


def _describe(rows: Sequence[tuple[str, int, int]]) -> str:
    return "; ".join(f"{label}: {before} without the policy, {after} with it" for label, before, after in rows)
