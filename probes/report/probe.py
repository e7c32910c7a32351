"""The section of one probe."""

from __future__ import annotations

from probes.cards import Estimate, ProbeCard
from probes.report import charts, tables
from probes.report.document import Block, Chart, Paragraph, Section, Table, absent
from probes.report.heat import heat
from probes.report.text import estimate, number, share, words
from probes.types import Probe

_ON_THRESHOLDS = (
    "A threshold is set on validation negatives, on which the probe was chosen as well: fewer trip there than of new "
    "ones, and the bound of 95% confidence is somewhat too low. FPR measured is of the test negatives, on which "
    "nothing was chosen: that is the rate to believe."
)
_OF_SCORES = {
    "reported": "Of the reported score: that of a verdict at the first threshold, the one that tripped or the newest.",
    "highest": "Of the highest folded score of a response; a verdict reports the one that tripped, or the newest, and "
    "its probabilities may be further from the shares.",
}


def probe_section(name: str, anchor: str, card: ProbeCard, probe: Probe | None) -> Section:
    """Everything that the card says about the probe ``name``; ``probe`` is None where the bundle has no such probe."""
    parts = {
        "Operating points": _discrimination(anchor, card, probe),
        "Scores": _scores(anchor, card, probe),
        "Calibration": _calibration(anchor, card),
        "Choice of layer": _choice(anchor, card),
        "Baselines and controls": _comparisons(anchor, name, card),
        "Parts of the test split": _groups(card),
        "Distribution shift": [tables.shifts(card.shifts)] if card.shifts else [absent("Distribution shift")],
        "Other conditions": [tables.conditions(card.conditions)] if card.conditions else [absent("Other conditions")],
        "Time to detection": [tables.detection(card.detection)] if card.detection else [absent("Time to detection")],
        "Cascade": _cascade(anchor, card),
        "Token by token": _heat_maps(card),
    }
    sections = tuple(
        Section(title, f"{anchor}-{i}", tuple(blocks)) for i, (title, blocks) in enumerate(parts.items(), start=1)
    )
    return Section(name, anchor, (_facts(card, probe),), sections)


def _facts(card: ProbeCard, probe: Probe | None) -> Table:
    fitted = (
        [("Layer", str(probe.layer)), ("Fold", f"{probe.fold.kind.value} over {words(probe.scope.value)}")]
        if probe
        else [("Layer", "not in the bundle")]
    )
    rows = [
        ("Concept", card.concept),
        ("Reads", card.reads),
        *fitted,
        (
            "Test examples",
            f"{card.n_positive:,} positives, {card.n_negative:,} negatives, {card.n_unscored:,} unscored",
        ),
        ("AUROC", estimate(card.auroc)),
        ("AUPRC", estimate(card.auprc)),
        ("95% intervals over", "examples" if card.n_families is None else f"{card.n_families:,} template families"),
        ("AUROC by seed", ", ".join(number(v) for v in card.by_seed) or "not measured"),
    ]
    return Table("In short", ("", ""), tuple(rows))


def _discrimination(anchor: str, card: ProbeCard, probe: Probe | None) -> list[Block]:
    rows = tuple(tables.operating_points(card, probe))
    table: list[Block] = (
        [Table("At each threshold", tables.POINT_COLUMNS, rows), Paragraph(_ON_THRESHOLDS)]
        if rows
        else [absent("Operating points")]
    )
    if not card.roc.x:
        return [*table, absent("ROC curve")]
    data = tables.points("ROC", ("False-positive rate", "True-positive rate"), card.roc.x, card.roc.y)
    caption = "ROC; whiskers are 95% intervals of the TPR, the dotted line is chance"
    return [*table, Chart(charts.roc(f"{anchor}-roc", card), caption, data)]


def _scores(anchor: str, card: ProbeCard, probe: Probe | None) -> list[Block]:
    found = card.histograms
    if not found.edges:
        return [absent("Distribution of the scores")]
    thresholds = {t.fpr: t.value for t in reversed(probe.thresholds)} if probe else {}
    data = tables.points(
        "Scores",
        ("From", "To", "Positives", "Negatives"),
        found.edges[:-1],
        found.edges[1:],
        found.positive,
        found.negative,
    )
    drawing = charts.histograms(f"{anchor}-scores", found, thresholds)
    return [Chart(drawing, "Folded scores by label; a score at or right of a threshold trips", data)]


def _calibration(anchor: str, card: ProbeCard) -> list[Block]:
    found = card.calibration
    said = (
        f"{found.method.capitalize()} calibration: expected calibration error (ECE) {number(found.ece)}, "
        f"Brier score {number(found.brier)}. Lower is better for both. {_OF_SCORES[found.score]}"
    )
    bins = [(b.predicted, b.observed, b.n) for b in found.bins]
    if not bins:
        return [Paragraph(said), absent("Reliability diagram")]
    data = tables.points("Reliability", ("Predicted", "Observed", "Examples"), *zip(*bins, strict=True))
    drawing = charts.calibration(f"{anchor}-calibration", found)
    return [Paragraph(said), Chart(drawing, "On the dotted line, probabilities are shares", data)]


def _choice(anchor: str, card: ProbeCard) -> list[Block]:
    if not card.candidates:
        return [absent("Other layers and estimators")]
    drawing = charts.by_layer(f"{anchor}-layers", card.candidates)
    caption = "Best AUROC of each estimator at each layer, lowest to highest seed; the ring marks what was chosen"
    return [Chart(drawing, caption, tables.candidates(card))]


def _comparisons(anchor: str, name: str, card: ProbeCard) -> list[Block]:
    if not card.comparisons:
        return [absent("Text baselines and controls")]
    bars: list[tuple[str, Estimate, str]] = [(name, card.auroc, "probe")]
    bars += [(c.name, c.auroc, c.kind) for c in card.comparisons]
    table = tables.comparisons([(name, c) for c in card.comparisons], named=False)
    return [Chart(charts.forest(f"{anchor}-forest", bars), "AUROC with 95% intervals"), table]


def _groups(card: ProbeCard) -> list[Block]:
    rest = "TPR and FPR at the first threshold"
    kinds = (
        (f"By length; {rest}", "Length", card.by_length),
        (f"By source; {rest}", "Source", card.by_source),
        (f"Families with most errors, worst first; {rest}", "Family", card.worst),
    )
    return [
        tables.groups(caption, of, found) if found else absent(caption.partition(";")[0])
        for caption, of, found in kinds
    ]


def _cascade(anchor: str, card: ProbeCard) -> list[Block]:
    if not card.cascade:
        return [absent("Cascade with a costlier judge")]
    rows = tuple((share(p.deferred), share(p.error)) for p in card.cascade)
    data = Table("Cascade", ("Deferred", "Error"), rows, folded=True)
    drawing = charts.cascade(f"{anchor}-cascade", card.cascade)
    return [Chart(drawing, "Examples nearest to the threshold are deferred to a costlier judge", data)]


def _heat_maps(card: ProbeCard) -> list[Block]:
    if not card.heat_maps:
        return [absent("Scores token by token")]
    legend = (
        "The colour is the token's own score: orange above the threshold, blue below, the deeper the farther. "
        "Underlined: at or above it. Boxed, after ▲: the folded score, which decides, trips here."
    )
    return [Paragraph(legend), *(heat(h) for h in card.heat_maps)]
