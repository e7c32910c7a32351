"""A bundle as tables for people: 80 columns are enough for three probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from probes.bundle import Bundle
from probes.card_tables import NOTHING, print_card, rate
from probes.cards import Card, ProbeCard
from probes.types import Direction, Probe, Threshold


def print_bundle(console: Console, bundle: Bundle) -> None:
    """Print the model, the probes and the directions of a bundle, and the summary of its card."""
    manifest, model = bundle.manifest, bundle.manifest.model
    card = bundle.card or Card()
    console.print(f"{manifest.name} version {manifest.version}, made {manifest.created}", style="bold", markup=False)
    console.print(f"in {bundle.path}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"for {model.name}: {model.architecture}, {model.n_layers} layers, width {model.d_model}", markup=False
    )
    console.print(f"digest {bundle.digest}", highlight=False, soft_wrap=True)
    console.print(_signed(bundle), highlight=False, markup=False)
    if card.note:
        console.print(card.note, style="yellow", highlight=False, markup=False)
    if manifest.probes:
        rows = [_probe_rows(probe, card.probes.get(probe.name)) for probe in manifest.probes]
        console.print(_columns("probe", [p.name for p in manifest.probes], rows))
    if manifest.directions:
        names = [d.name for d in manifest.directions]
        console.print(_columns("direction", names, [_direction_rows(d) for d in manifest.directions]))
    console.print("[dim]Figures of the test split; TPR and FPR at the first validation threshold.[/]")
    print_card(console, card)


def _signed(bundle: Bundle) -> str:
    if bundle.signature is None:
        return "not signed"
    return f"signed with the key {bundle.signature.key_id}, says the file; to check it: plumbline bundle verify --key"


def _columns(title: str, names: Sequence[str], items: Sequence[Mapping[str, str]]) -> Table:
    """One column for each item, one row for each figure that any of them has."""
    table = Table(title, *names)
    for label in dict.fromkeys(label for item in items for label in item):
        cells = [item.get(label, NOTHING) for item in items]
        if any(cell != NOTHING for cell in cells):
            table.add_row(label, *cells)
    return table


def _probe_rows(probe: Probe, card: ProbeCard | None) -> dict[str, str]:
    m = {**probe.metrics, **(_figures(probe, card) if card else {})}
    rows = {
        "concept": escape(probe.concept),
        "layer": str(probe.layer),
        "reads": probe.scope.value,
        "fold": probe.fold.kind.value,
        "AUROC": _number(m.get("auroc")),
        "  95 % interval": _interval(m.get("auroc_low"), m.get("auroc_high")),
        "  of families": f"{m['n_families']:.0f}" if m.get("n_families") else NOTHING,
        "  from words alone": _number(m.get("auroc_text_baseline")),
        "  from length alone": _number(m.get("auroc_length_baseline")),
        "AUROC, refusal ablated": _number(m.get("auroc_ablated")),
    }
    rows |= {_threshold(t): f"{t.value:.3f}" for t in probe.thresholds}
    return rows | {
        "TPR": rate(m.get("tpr")),
        "TPR, refusal ablated": rate(m.get("tpr_ablated")),
        "FPR, measured": rate(m.get("fpr")),
        "positives, negatives": f"{m.get('n_positive', 0):.0f}, {m.get('n_negative', 0):.0f}",
        "unscored": f"{m['n_unscored']:.0f}" if m.get("n_unscored") else NOTHING,
    }


def _figures(probe: Probe, card: ProbeCard) -> dict[str, float]:
    """The card's figures under the names of ``Probe.metrics``; the card is the one that counts."""
    fpr = f"{probe.thresholds[0].fpr:g}"
    figures = {
        "auroc": card.auroc.value,
        "auroc_low": card.auroc.low,
        "auroc_high": card.auroc.high,
        "n_positive": card.n_positive,
        "n_negative": card.n_negative,
        "n_unscored": card.n_unscored,
        "n_families": card.n_families or 0,
        **card.conditions,
    }
    if fpr in card.tpr_at:
        figures["tpr"] = card.tpr_at[fpr].value
    if fpr in card.measured_fpr_at:
        figures["fpr"] = card.measured_fpr_at[fpr]
    return figures


def _threshold(threshold: Threshold) -> str:
    method = ", conformal" if threshold.method == "conformal" else ""
    return f"threshold (FPR ≤ {threshold.fpr:g}{method})"


def _direction_rows(direction: Direction) -> dict[str, str]:
    m = direction.metrics
    return {
        "layer": str(direction.layer),
        "magnitude": f"{direction.magnitude:.2f}",
        "ablated: answered": rate(m.get("bypass_rate")),
        "added: refused": rate(m.get("induce_rate")),
        "KL on answered (nats)": _number(m.get("kl")),
    }


def _interval(low: float | None, high: float | None) -> str:
    return NOTHING if low is None or high is None else f"{low:.3f}-{high:.3f}"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"
