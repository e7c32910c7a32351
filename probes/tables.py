"""A bundle as tables for people: 80 columns are enough for three probes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from probes.bundle import Bundle
from probes.types import Direction, Probe


def print_bundle(console: Console, bundle: Bundle) -> None:
    """Print the model, the probes and the directions of a bundle, with their figures on the test split."""
    manifest, model = bundle.manifest, bundle.manifest.model
    console.print(f"{manifest.name} version {manifest.version}, made {manifest.created}", style="bold", markup=False)
    console.print(f"in {bundle.path}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"for {model.name}: {model.architecture}, {model.n_layers} layers, width {model.d_model}", markup=False
    )
    console.print(f"digest {bundle.digest}", highlight=False, soft_wrap=True)
    if note := manifest.card.get("note"):
        console.print(str(note), style="yellow", highlight=False, markup=False)
    if manifest.probes:
        console.print(_columns("probe", [p.name for p in manifest.probes], [_probe_rows(p) for p in manifest.probes]))
    if manifest.directions:
        names = [d.name for d in manifest.directions]
        console.print(_columns("direction", names, [_direction_rows(d) for d in manifest.directions]))
    console.print("[dim]Figures of the test split; TPR and FPR at the first threshold.[/]")


def _columns(title: str, names: Sequence[str], items: Sequence[dict[str, str]]) -> Table:
    """One column for each item, one row for each figure."""
    table = Table(title, *names)
    for label in items[0]:
        table.add_row(label, *(item.get(label, "-") for item in items))
    return table


def _probe_rows(probe: Probe) -> dict[str, str]:
    m = probe.metrics
    rows = {
        "concept": probe.concept,
        "layer": str(probe.layer),
        "reads": probe.scope.value,
        "fold": probe.fold.kind.value,
        "AUROC": _number(m.get("auroc")),
        "  95 % interval": f"{_number(m.get('auroc_low'))}-{_number(m.get('auroc_high'))}",
        "  from words alone": _number(m.get("auroc_text_baseline")),
        "  from length alone": _number(m.get("auroc_length_baseline")),
        "AUROC, refusal ablated": _number(m.get("auroc_ablated")),
    }
    rows |= {f"threshold (FPR ≤ {t.fpr:g})": f"{t.value:.3f}" for t in probe.thresholds}
    return rows | {
        "TPR": _rate(m.get("tpr")),
        "TPR, refusal ablated": _rate(m.get("tpr_ablated")),
        "FPR": _rate(m.get("fpr")),
        "positives, negatives": f"{m.get('n_positive', 0):.0f}, {m.get('n_negative', 0):.0f}",
    }


def _direction_rows(direction: Direction) -> dict[str, str]:
    m = direction.metrics
    return {
        "layer": str(direction.layer),
        "magnitude": f"{direction.magnitude:.2f}",
        "ablated: answered": _rate(m.get("bypass_rate")),
        "added: refused": _rate(m.get("induce_rate")),
        "KL on answered (nats)": _number(m.get("kl")),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
