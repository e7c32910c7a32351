"""The section of one direction: its causal card."""

from __future__ import annotations

from probes.cards import DirectionCard
from probes.report import causal, causal_charts
from probes.report.document import Block, Chart, Section, Table, absent
from probes.report.text import number, words
from probes.types import Direction


def direction_section(name: str, anchor: str, card: DirectionCard, direction: Direction | None) -> Section:
    """Everything that the card says about a direction; ``direction`` is None where the bundle has no such one."""
    parts = {
        "Effects": _effects(anchor, card),
        "Random directions": [causal.random_control(card.random)] if card.random else [absent("Random directions")],
        "Dose-response": _dose(anchor, card),
        "Off target": _off_target(card),
        "Choice of layer and position": _choice(anchor, card),
    }
    sections = tuple(
        Section(title, f"{anchor}-{i}", tuple(blocks)) for i, (title, blocks) in enumerate(parts.items(), start=1)
    )
    rows = (
        ("Concept", card.concept),
        ("Method", card.method),
        ("Layer", str(card.layer)),
        ("Position", card.position),
        ("Advice", card.advice or "none"),
        ("Magnitude", number(direction.magnitude) if direction else "not in the bundle"),
    )
    return Section(name, anchor, (Table("In short", ("", ""), rows),), sections)


def _effects(anchor: str, card: DirectionCard) -> list[Block]:
    found = [e for e in card.effects if not e.off_target]
    if not found:
        return [absent("Effects on the target behaviour")]
    table = causal.effects("What steering does to its target and to harmless text", found)
    if not any(e.unit == "rate" for e in found):
        return [table]
    return [Chart(causal_charts.effects(f"{anchor}-effects", found), "Rates before and after"), table]


def _dose(anchor: str, card: DirectionCard) -> list[Block]:
    rates = frozenset(e.name for e in card.effects if e.unit == "rate")
    charts: list[Block] = [
        Chart(
            causal_charts.dose(f"{anchor}-dose-{i}", response, rates),
            f"{words(response.operator)}: each quantity against strength",
            causal.dose(response),
        )
        for i, response in enumerate(card.dose)
        if any(p.values for p in response.points)
    ]
    return charts or [absent("Dose-response")]


def _off_target(card: DirectionCard) -> list[Block]:
    found = [e for e in card.effects if e.off_target]
    return [causal.effects("What it moves besides its target", found) if found else absent("Off-target effects")]


def _choice(anchor: str, card: DirectionCard) -> list[Block]:
    if not card.candidates:
        return [absent("Other layers and positions")]
    table = causal.candidates(card.candidates)
    if not any(c.figures for c in card.candidates):
        return [table]
    caption = "Selection figures by layer, one line for each position; the ring marks what was chosen"
    return [Chart(causal_charts.by_layer(f"{anchor}-layers", card.candidates), caption, table)]
