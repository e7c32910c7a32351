"""Manifest and card become a report."""

from __future__ import annotations

from probes.cards import Card, Study
from probes.report import charts, tables
from probes.report.direction import direction_section
from probes.report.document import Block, Chart, Paragraph, Report, Section, Table, absent
from probes.report.probe import probe_section
from probes.report.text import anything, slug
from probes.report.verdict import failures, lead, verdict
from probes.types import Fingerprint, Manifest


def build_report(manifest: Manifest, card: Card, digest: str) -> Report:
    """The report of a bundle.

    Args:
        manifest, card: of the bundle; a probe or direction that only one of them knows is shown and said to be so.
        digest: the bundle's identity, SHA-256 in hex.
    """
    probes = tuple(
        probe_section(name, f"probe-{i}-{slug(name)}", probe, manifest.probe(name))
        for i, (name, probe) in enumerate(card.probes.items())
    )
    directions = tuple(
        direction_section(name, f"direction-{i}-{slug(name)}", direction, manifest.direction(name))
        for i, (name, direction) in enumerate(card.directions.items())
    )
    unmeasured = [
        absent(f"Direction {d.name} of the bundle") for d in manifest.directions if d.name not in card.directions
    ]
    studies = tuple(_study(f"study-{i}", study) for i, study in enumerate(card.studies))
    sections = (
        verdict(manifest, card),
        failures(card),
        Section("Probes", "probes", () if probes else (absent("Probes"),), probes),
        Section(
            "Directions",
            "directions",
            tuple(unmeasured) if directions or unmeasured else (absent("Directions"),),
            directions,
        ),
        Section("Studies", "studies", () if studies else (absent("Further studies"),), studies),
        _origin(manifest, card),
    )
    return Report(f"Evaluation report: {manifest.name}", lead(manifest, card, digest), sections)


def _study(anchor: str, study: Study) -> Section:
    blocks: list[Block] = [Paragraph(study.text)] if study.text else []
    if study.plot and study.plot.x:
        x, y = (_column(study, values, name) for values, name in ((study.plot.x, "x"), (study.plot.y, "y")))
        drawing = charts.line(f"{anchor}-plot", study.plot, study.title, x, y)
        blocks.append(Chart(drawing, study.title, tables.points("Points", (x, y), study.plot.x, study.plot.y)))
    rows = tuple(tuple(anything(v) for v in row) for row in study.rows)
    blocks.append(Table(study.title, study.columns, rows) if rows else absent("Rows of this study"))
    return Section(study.title, anchor, tuple(blocks))


def _column(study: Study, values: tuple[float, ...], otherwise: str) -> str:
    """Name of the column that holds ``values``."""
    columns = zip(study.columns, zip(*study.rows, strict=False), strict=False)
    return next((name for name, cells in columns if cells == values), otherwise)


def _origin(manifest: Manifest, card: Card) -> Section:
    """How it was made: enough to make it again."""
    marks = {name: getattr(manifest.model.fingerprint, name) for name in Fingerprint.model_fields}
    blocks: list[Block] = [
        tables.mapping("Settings", ("Setting", "Value"), card.settings) if card.settings else absent("Settings"),
        tables.mapping("Data", ("Data", "Value"), card.data) if card.data else absent("Data"),
        tables.mapping("Fingerprint of the model (SHA-256)", ("Part", "SHA-256"), marks),
    ]
    return Section("How it was made", "origin", tuple(blocks))
