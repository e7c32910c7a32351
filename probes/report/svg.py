"""Draw with matplotlib, and put the drawing inline into a page: its text stays text, its colours become CSS variables.

Colours that a chart may use are placeholders. In the page each is a variable of ``templates/style.css``, so one
drawing serves light, dark and paper.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.figure import Figure

INK, FAINT = "#0a0b00", "#0a0b01"
SERIES = ("#0a0b10", "#0a0b11", "#0a0b12", "#0a0b13", "#0a0b14", "#0a0b15")
LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")
_CSS = {INK: "currentColor", FAINT: "var(--rule)", **{c: f"var(--series-{i + 1})" for i, c in enumerate(SERIES)}}

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_STYLE: dict[Any, Any] = {  # matplotlib types its several hundred keys one by one
    "svg.fonttype": "none",
    "text.parse_math": False,  # names come from data: a dollar sign is a dollar sign
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "hatch.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


def percent(value: float, _position: float = 0.0) -> str:
    """A share as the label of a tick: ``0.1%``, ``20%``."""
    return f"{100 * value:.6g}%"


def draw(name: str, size: tuple[float, float], paint: Callable[[Figure], None], alt: str) -> str:
    """An ``<svg>`` element for a page.

    Args:
        name: unique in the page; the ids of the drawing begin with it.
        size: width and height in inches; 72 units of the drawing are one.
        paint: draws onto the empty figure, with the colours of this module.
        alt: what the drawing shows, for those who do not see it.
    """
    buffer = io.BytesIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # A character that matplotlib's own font lacks: the browser draws the text, with its fonts.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", transparent=True)
    return _inline(buffer.getvalue(), name, alt)


def _inline(drawing: bytes, name: str, alt: str) -> str:
    for prefix, namespace in (("", _SVG), ("xlink", _XLINK)):
        ET.register_namespace(prefix, namespace)
    root = ET.fromstring(drawing)  # noqa: S314  (matplotlib wrote it)
    for parent in list(root.iter()):
        for child in list(parent):
            # Metadata names other sites; the style would hold for the whole page.
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    referenced = set(_references(root))
    for element in root.iter():
        if (own := element.attrib.pop("id", None)) in referenced:
            element.set("id", f"{name}-{own}")
        for key, value in element.attrib.items():
            element.set(key, _restyle(_rename(value, name)))
    width = float(root.attrib.pop("width").removesuffix("pt"))
    del root.attrib["height"], root.attrib["version"]
    root.attrib |= {"role": "img", "aria-label": alt, "style": f"max-width: {width * 4 / 3:.0f}px"}
    return ET.tostring(root, encoding="unicode")


_REFERENCE = re.compile(r"(?<=url\(#)[^)]+(?=\))|(?<=^#)[A-Za-z]\w*$")


def _references(root: ET.Element) -> Iterator[str]:
    for element in root.iter():
        for value in element.attrib.values():
            yield from _REFERENCE.findall(value)


def _rename(value: str, name: str) -> str:
    return _REFERENCE.sub(lambda m: f"{name}-{m[0]}", value)


def _restyle(value: str) -> str:
    """Placeholder colours become CSS variables, and the font that of the page."""
    value = re.sub(r"font: ([\d.]+px) [^;]+", r"font-size: \1", value)
    for placeholder, css in _CSS.items():
        value = value.replace(placeholder, css)
    return value
