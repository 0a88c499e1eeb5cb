"""Draw bar charts as SVG for the HTML page. matplotlib draws them; what the page must not contain is removed.

Labels must be fixed texts of this project. Untrusted names must not get here, because matplotlib interprets labels.
"""

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from xml.etree import ElementTree

from markupsafe import Markup


@contextmanager
def _default_matplotlib_settings() -> Iterator[None]:
    """Import matplotlib with its default settings, without a matplotlibrc and without the environment's settings.

    matplotlib reads a matplotlibrc from the current folder, which an unprivileged user may have written. One line in
    it makes matplotlib run TeX, here as root.
    """
    start_folder, environment = os.open(".", os.O_PATH | os.O_CLOEXEC), dict(os.environ)
    try:
        os.chdir(os.path.dirname(__file__))
        os.environ.update(MATPLOTLIBRC=os.devnull, MPLBACKEND="svg")
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.fchdir(start_folder)
        os.close(start_folder)


with _default_matplotlib_settings():
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

_POINTS = 72
_WIDTH, _LABELS, _ROW = 400, 160, 22
"""In CSS pixels. The width is that of a phone's page, so a browser never scales the text down."""

# Placeholders for the page's CSS variables, whose colours differ in light mode, in dark mode and in print.
_COLOURS = {"#0000a1": "var(--before)", "#0000a2": "var(--after)", "#0000a3": "var(--ink)"}
_BEFORE, _AFTER, _INK = _COLOURS
_SETTINGS = {"svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": 11.0}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def bar_chart(key: str, title: str, description: str, rows: Sequence[tuple[str, int, int]]) -> Markup:
    """Return an SVG with a bar for each (label, before, after); the `after` bar covers part of the `before` bar.

    `key` is the prefix of the ids of the chart's title and description in the page.
    """
    with rc_context(_SETTINGS):
        drawn = io.StringIO()
        FigureCanvasSVG(_figure(rows)).print_svg(drawn, metadata=_NO_METADATA)
    return Markup(_clean_svg(drawn.getvalue(), key, title, description))


def _figure(rows: Sequence[tuple[str, int, int]]) -> Figure:
    height = _ROW * len(rows)
    figure = Figure(figsize=(_WIDTH / _POINTS, height / _POINTS))
    figure.patch.set_visible(False)
    axes = figure.add_axes((_LABELS / _WIDTH, 0, 1 - _LABELS / _WIDTH, 1))
    axes.set_axis_off()
    most = max((before for _, before, _ in rows), default=1) or 1
    axes.set_xlim(0, most * 1.5)  # This leaves room for the numbers behind the longest bar.
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for line, (label, before, after) in enumerate(rows):
        axes.barh(line, before, 0.62, color=_BEFORE, clip_on=False)
        axes.barh(line, after, 0.62, color=_AFTER, clip_on=False)
        axes.text(-most * 0.03, line, label, ha="right", va="center_baseline", color=_INK)
        axes.text(before + most * 0.03, line, f"{before} → {after}", va="center_baseline", color=_INK)
    return figure


def _clean_svg(svg: str, key: str, title: str, description: str) -> str:
    """Remove metadata, namespaces, size and ids. Replace colours by CSS variables. Add a title and a description."""
    root = ElementTree.fromstring(svg.partition("<svg")[1] + svg.partition("<svg")[2])
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}defs")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib.pop("id", None)
        if "style" in element.attrib:
            element.set("style", re.sub("|".join(_COLOURS), lambda found: _COLOURS[found[0]], element.get("style", "")))
    view = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {"viewBox": view, "role": "img", "aria-labelledby": f"{key}-title {key}-desc"}
    for index, (tag, text) in enumerate((("title", title), ("desc", description))):
        label = ElementTree.Element(tag, {"id": f"{key}-{tag}"})
        label.text = text
        root.insert(index, label)
    return ElementTree.tostring(root, encoding="unicode")
