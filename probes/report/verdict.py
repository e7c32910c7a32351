"""The first thing a reader sees: what it is, how good it is, beside what it has to beat, and what did not work."""

from __future__ import annotations

from probes.cards import Card
from probes.report import charts
from probes.report.document import Block, Chart, Paragraph, Section, Table, absent
from probes.report.tables import POINT_COLUMNS, comparisons, operating_points
from probes.report.text import estimate
from probes.types import Manifest


def lead(manifest: Manifest, card: Card, digest: str) -> tuple[Block, ...]:
    """What the bundle is and for which model."""
    model = manifest.model
    rows = (
        ("Bundle", f"{manifest.name}, version {manifest.version}"),
        ("Made", manifest.created),
        ("Digest", digest),
        ("For the model", model.name),
        ("Architecture", f"{model.architecture}, {model.n_layers} layers, width {model.d_model:,}"),
    )
    intro = (
        f"Probes and directions of the bundle {manifest.name}, as measured on {model.name}. They belong to this model "
        "and to no other. Figures are of the test split unless said otherwise; brackets hold 95% intervals; a score "
        "is a logit."
    )
    note = [Paragraph(card.note, tone="note")] if card.note else []
    return (*note, Paragraph(intro), Table("What this is", ("", ""), rows))


def verdict(manifest: Manifest, card: Card) -> Section:
    """All probes in one table, and beside text baselines and controls in another."""
    blocks: list[Block] = [*_operating_points(manifest, card), *_comparisons(card)]
    if card.advice:
        blocks.append(Paragraph(card.advice))
    return Section("Verdict", "verdict", tuple(blocks))


def _operating_points(manifest: Manifest, card: Card) -> list[Block]:
    if not card.probes:
        return [absent("Probes")]
    rows = [
        (name, estimate(probe.auroc), *row[:4])
        for name, probe in card.probes.items()
        for row in operating_points(probe, manifest.probe(name)) or [("",) * len(POINT_COLUMNS)]
    ]
    table = Table("Probes at their thresholds", ("Probe", "AUROC", *POINT_COLUMNS[:4]), tuple(rows))
    missing = [absent(f"Probe {p.name} of the bundle") for p in manifest.probes if p.name not in card.probes]
    return [table, *missing]


def _comparisons(card: Card) -> list[Block]:
    if not card.probes:
        return []
    found = [(name, c) for name, probe in card.probes.items() for c in probe.comparisons]
    if not found:
        return [absent("Text baselines and controls")]
    bars = []
    for name, probe in card.probes.items():
        bars.append((name, probe.auroc, "probe"))
        bars += [(f"{name}: {c.name}", c.auroc, c.kind) for c in probe.comparisons]
    drawing = charts.forest("verdict-forest", bars)
    chart = Chart(drawing, "AUROC of probes, text baselines and controls, with 95% intervals")
    return [chart, comparisons(found, named=True)]


def failures(card: Card) -> Section:
    """What did not work."""
    rows = tuple((f.what, f.found) for f in card.failures)
    table = Table("Tried or wanted, and what was found", ("What", "Found"), rows)
    nothing = Paragraph("Nothing is on record here, which does not mean that everything worked.", tone="absent")
    return Section("What did not work", "failures", (table if rows else nothing,))
