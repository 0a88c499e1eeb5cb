"""Bars as SVG for a page: by matplotlib, cleaned of what a page must not have or cannot style.

Labels are texts of ours, never names from outside: matplotlib would have its own ideas about those.
"""

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from xml.etree import ElementTree

from markupsafe import Markup


@contextmanager
def _without_settings() -> Iterator[None]:
    """matplotlib's own alone: it goes by a matplotlibrc of the folder in which it is imported, whoever wrote that.

    One line of it has root run TeX. The environment's are left out as well.
    """
    here, environment = os.open(".", os.O_PATH | os.O_CLOEXEC), dict(os.environ)
    try:
        os.chdir(os.path.dirname(__file__))
        os.environ.update(MATPLOTLIBRC=os.devnull, MPLBACKEND="svg")
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.fchdir(here)
        os.close(here)


with _without_settings():
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

_POINTS = 72
_WIDTH, _LABELS, _ROW = 400, 160, 22
"""In CSS pixels of a phone: as wide as its page, so that the text is never smaller than it is written."""

# Colours that stand for the page's own, which are others in the dark and on paper.
_COLOURS = {"#0000a1": "var(--before)", "#0000a2": "var(--after)", "#0000a3": "var(--ink)"}
_BEFORE, _AFTER, _INK = _COLOURS
_SETTINGS = {"svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": 11.0}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def bars(key: str, title: str, description: str, rows: Sequence[tuple[str, int, int]]) -> Markup:
    """A bar for each (label, before, after), the part that is left over the whole. `key` is the page's id for it."""
    with rc_context(_SETTINGS):
        drawn = io.StringIO()
        FigureCanvasSVG(_figure(rows)).print_svg(drawn, metadata=_NO_METADATA)
    return Markup(_cleaned(drawn.getvalue(), key, title, description))


def _figure(rows: Sequence[tuple[str, int, int]]) -> Figure:
    height = _ROW * len(rows)
    figure = Figure(figsize=(_WIDTH / _POINTS, height / _POINTS))
    figure.patch.set_visible(False)
    axes = figure.add_axes((_LABELS / _WIDTH, 0, 1 - _LABELS / _WIDTH, 1))
    axes.set_axis_off()
    most = max((before for _, before, _ in rows), default=1) or 1
    axes.set_xlim(0, most * 1.5)  # room for the numbers behind the longest bar
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for line, (label, before, after) in enumerate(rows):
        axes.barh(line, before, 0.62, color=_BEFORE, clip_on=False)
        axes.barh(line, after, 0.62, color=_AFTER, clip_on=False)
        axes.text(-most * 0.03, line, label, ha="right", va="center_baseline", color=_INK)
        axes.text(before + most * 0.03, line, f"{before} → {after}", va="center_baseline", color=_INK)
    return figure


def _cleaned(svg: str, key: str, title: str, description: str) -> str:
    """No XML head, no namespace, no style of its own, no size, no ids but the two that name it."""
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
        named = ElementTree.Element(tag, {"id": f"{key}-{tag}"})
        named.text = text
        root.insert(index, named)
    return ElementTree.tostring(root, encoding="unicode")
