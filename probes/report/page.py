"""A report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from probes.report.document import Report

_BESIDE_DIGITS = frozenset("<>[].,%e+-")


def render_page(report: Report) -> str:
    """The page. Everything that is not ours is escaped, and the page forbids scripts and requests of its own."""
    return _environment().get_template("page.html").render(report=report) + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("probes.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["figure"] = is_figure
    return environment


def is_figure(cell: str) -> bool:
    """Whether a cell holds figures and nothing else: ``0.981 [0.975, 0.987]``, ``>99.9%``, ``1.2e-05``."""
    return any(c.isdecimal() for c in cell) and all(c.isdecimal() or c.isspace() or c in _BESIDE_DIGITS for c in cell)
