"""The summary of an evaluation card: what the probes were compared with, shifts, effects, and what did not work."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from probes.cards import Card, DirectionCard, Estimate, ProbeCard

NOTHING = "-"


def print_card(console: Console, card: Card) -> None:
    """Print what a card has of this, and nothing for what it has not. Curves and heat maps are left to the report."""
    if any(probe.comparisons for probe in card.probes.values()):
        console.print(_by_probe("AUROC without the probe", card.probes, _comparisons))
        console.print("[dim]Under each, by how much the probe is better: 95 % interval, same examples.[/]")
    if any(probe.shifts for probe in card.probes.values()):
        console.print(_by_probe("shift: FNR, FPR", card.probes, _shifts))
        console.print("[dim]At the first threshold, unchanged. Shifted examples count in no other figure.[/]")
    for name, direction in card.directions.items():
        if direction.effects:
            console.print(_effects(name, direction))
    if card.failures:
        console.print("What did not work", style="bold")
        for failure in card.failures:
            console.print(Padding(Text(f"{failure.what}: {failure.found}"), (0, 0, 0, 2)))
    if card.advice:
        console.print(card.advice, style="dim", markup=False, highlight=False)


def _by_probe(title: str, cards: Mapping[str, ProbeCard], rows: Callable[[ProbeCard], dict[str, str]]) -> Table:
    """One column for each probe, one row for each thing that any of them was measured on."""
    cells = {name: rows(card) for name, card in cards.items()}
    table = Table(title, *cells)
    for label in dict.fromkeys(label for column in cells.values() for label in column):
        table.add_row(label, *(column.get(label, NOTHING) for column in cells.values()))
    return table


def _comparisons(card: ProbeCard) -> dict[str, str]:
    rows = {}
    for other in card.comparisons:
        rows[other.name] = f"{other.auroc.value:.3f}"
        if other.gap is not None:
            rows[other.name] += f"\n{other.gap.low:+.3f} to {other.gap.high:+.3f}"
    return rows


def _shifts(card: ProbeCard) -> dict[str, str]:
    return {case.name: f"{rate(case.fnr)}, {rate(case.fpr)}" for case in card.shifts}


def _effects(name: str, card: DirectionCard) -> Table:
    table = Table(f"effect of {name}", "steering", "before", "after (95 %)")
    for effect in card.effects:
        before = NOTHING if effect.before is None else _quantity(effect.before, effect.unit)
        table.add_row(effect.name, effect.steering, before, _estimate(effect.after, effect.unit))
    for control in card.random:
        change = f"{control.mean:+.1%} on average, {control.worst:+.1%} at worst"
        table.add_row(f"{control.n} random directions: change", control.operator, NOTHING, change)
    return table


def _estimate(estimate: Estimate, unit: str) -> str:
    low, high = _quantity(estimate.low, unit), _quantity(estimate.high, unit)
    return f"{_quantity(estimate.value, unit)} ({low} to {high})"


def _quantity(value: float, unit: str) -> str:
    return f"{value:.1%}" if unit == "rate" else f"{value:.3g}"


def rate(value: float | None) -> str:
    """A share in percent; ``NOTHING`` where it was not measured."""
    return NOTHING if value is None else f"{value:.1%}"
