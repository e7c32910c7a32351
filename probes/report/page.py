"""A report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from probes.report.document import Report

_FIGURE = re.compile(r"[<>\[\]\s\d.,%e+-]*\d[<>\[\]\s\d.,%e+-]*")


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
    environment.tests["figure"] = lambda cell: _FIGURE.fullmatch(cell) is not None
    return environment
