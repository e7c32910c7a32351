"""The few figures of a card that stand in the manifest beside the probe."""

from __future__ import annotations

from probes.cards import ProbeCard
from probes.types import Probe

_CONDITIONS = ("auroc_ablated", "tpr_ablated", "fpr_ablated", "auroc_added", "tpr_added", "fpr_added")


def headline(card: ProbeCard, probe: Probe) -> dict[str, float]:
    """Figures of the test split: AUROC with its interval, rates at the first threshold, counts, text baselines.

    ``n_families`` is 0 where intervals draw examples.
    """
    rate = f"{probe.thresholds[0].fpr:g}"
    figures = {
        "auroc": card.auroc.value,
        "auroc_low": card.auroc.low,
        "auroc_high": card.auroc.high,
        "tpr": card.tpr_at[rate].value,
        "fpr": card.measured_fpr_at[rate],
        "n_positive": float(card.n_positive),
        "n_negative": float(card.n_negative),
        "n_unscored": float(card.n_unscored),
        "n_families": float(card.n_families or 0),
    }
    figures |= {name: card.conditions[name] for name in _CONDITIONS if name in card.conditions}
    text = {c.name: c.auroc.value for c in card.comparisons if c.kind == "text"}
    lengths = [v for name, v in text.items() if "length" in name]
    words = [v for name, v in text.items() if "length" not in name]
    if words:
        figures["auroc_text_baseline"] = max(words)
    if lengths:
        figures["auroc_length_baseline"] = max(lengths)
    return {name: round(value, 6) for name, value in figures.items()}
