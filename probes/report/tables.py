"""The figures of one probe as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from probes.cards import Candidate, Comparison, DetectionTime, Estimate, Group, ProbeCard, ShiftCase
from probes.report.document import Table
from probes.report.text import NOT_MEASURED, anything, estimate, limit, number, share, words
from probes.types import Probe, Threshold

POINT_COLUMNS = ("Allowed FPR", "Threshold", "TPR", "FPR measured", "Threshold set on")


def operating_points(card: ProbeCard, probe: Probe | None) -> list[tuple[str, ...]]:
    """One row for each threshold, and for each rate of the card that has none; columns as :data:`POINT_COLUMNS`.

    ``tpr_at`` and ``measured_fpr_at`` are of the first threshold of a rate; of a further one at the same rate the
    card has the conditions ``tpr_<method>_<rate>`` and ``fpr_<method>_<rate>``.
    """
    tpr = {float(rate): value for rate, value in card.tpr_at.items()}
    fpr = {float(rate): _measured(card, rate) for rate in card.measured_fpr_at}
    rows: list[tuple[str, ...]] = []
    seen: set[float] = set()
    for t in probe.thresholds if probe else ():
        figures = (estimate(tpr.get(t.fpr), share), fpr.get(t.fpr, NOT_MEASURED))
        if t.fpr in seen:
            of = f"{t.method}_{t.fpr:g}"
            figures = (share(card.conditions.get(f"tpr_{of}")), share(card.conditions.get(f"fpr_{of}")))
        kind = "" if t.method == "empirical" else f" ({t.method})"
        rows.append((f"{limit(t.fpr)}{kind}", number(t.value), *figures, _provenance(t)))
        seen.add(t.fpr)
    rows += [
        (limit(rate), "not in the bundle", estimate(tpr.get(rate), share), fpr.get(rate, NOT_MEASURED), "")
        for rate in sorted({*tpr, *fpr} - seen, reverse=True)
    ]
    return rows


def _measured(card: ProbeCard, rate: str) -> str:
    """With its interval, which cards of earlier versions lack."""
    value = card.measured_fpr_at[rate]
    if rate not in card.fpr_interval_at:
        return share(value)
    low, high = card.fpr_interval_at[rate]
    return estimate(Estimate(value=value, low=low, high=high), share)


def _provenance(t: Threshold) -> str:
    bound = "" if t.fpr_high is None else f", at most {share(t.fpr_high)} with 95% confidence"
    return f"{t.data}: {t.n_negatives:,} negatives, FPR {share(t.measured_fpr)}{bound}"


def conditions(figures: Mapping[str, float]) -> Table:
    """Further figures by name; ``x_low`` and ``x_high`` stand beside ``x`` as its interval."""
    bounds = {f"{name}_{end}" for name in figures for end in ("low", "high")}
    rows = []
    for name in (n for n in figures if n not in bounds):
        shown = [_write(name, figures[key]) for key in (name, f"{name}_low", f"{name}_high") if key in figures]
        rows.append((words(name), shown[0] + (f" [{', '.join(shown[1:])}]" if shown[1:] else "")))
    return Table("Further figures", ("Figure", "Value"), tuple(rows))


def _write(name: str, value: float) -> str:
    if name.startswith("n_"):
        return anything(value)
    return share(value) if name.startswith(("tpr", "fpr", "fnr")) else number(value)


def comparisons(rows: Sequence[tuple[str, Comparison]], *, named: bool) -> Table:
    """Baselines and controls beside the probe. ``rows``: name of the probe, comparison; ``named``: show the name."""
    columns = ("Baseline or control", "Kind", "AUROC", "Gap of the probe", "Reading")
    cells = [
        (c.name, "text baseline" if c.kind == "text" else "control", estimate(c.auroc), estimate(c.gap), reading(c.gap))
        for _, c in rows
    ]
    if not named:
        return Table("Beside what it has to beat, the same test examples", columns, tuple(cells))
    # The probe's name comes first and names the row.
    rows_named = tuple((name, *cell) for (name, _), cell in zip(rows, cells, strict=True))
    return Table("Beside what they have to beat, the same test examples", ("Probe", *columns), rows_named)


def reading(gap: Estimate | None) -> str:
    """What the interval of a gap says."""
    if gap is None:
        return NOT_MEASURED
    if gap.low > 0:
        return "probe ahead"
    return "probe behind" if gap.high < 0 else "not told apart"


def candidates(card: ProbeCard) -> Table:
    """Every probe that was tried, by layer, the best of a layer first."""
    ordered = sorted(card.candidates, key=lambda c: (c.layer, -c.auroc.value))
    return Table(
        f"All {len(ordered)} configurations tried, figures of the validation split",
        ("Layer", "Estimator", "Reading", "Regularisation", "AUROC [lowest, highest seed]", "TPR", "Remark"),
        tuple(
            (
                str(c.layer),
                c.estimator,
                c.reading,
                "none" if c.regularisation is None else anything(c.regularisation),
                estimate(c.auroc),
                share(c.tpr),
                remark(c),
            )
            for c in ordered
        ),
        folded=True,
    )


def remark(candidate: Candidate) -> str:
    """Whether it is the one in the bundle, and whether the engine could run it."""
    return ", ".join(["chosen"] * candidate.chosen + ["not servable"] * (not candidate.servable))


def groups(caption: str, of: str, found: Sequence[Group]) -> Table:
    """Parts of the test split, one row each."""
    return Table(
        caption,
        (of, "Positives", "Negatives", "AUROC", "TPR", "FPR"),
        tuple(
            (g.name, f"{g.n_positive:,}", f"{g.n_negative:,}", number(g.auroc), share(g.tpr), share(g.fpr))
            for g in found
        ),
    )


def shifts(cases: Sequence[ShiftCase]) -> Table:
    """Distribution shifts, one row each."""
    return Table(
        "Under distribution shift, at the unchanged first threshold",
        ("Shift", "Positives", "Negatives", "AUROC", "Missed (FNR)", "FPR"),
        tuple(
            (words(s.name), f"{s.n_positive:,}", f"{s.n_negative:,}", number(s.auroc), share(s.fnr), share(s.fpr))
            for s in cases
        ),
    )


def detection(time: DetectionTime) -> Table:
    """Response tokens until the trip."""
    return Table(
        "Response tokens until the trip, over positives that tripped",
        ("Tripped", "Never tripped", "10th percentile", "Median", "90th percentile"),
        ((f"{time.n_tripped:,}", f"{time.n_missed:,}", *map(_tokens, (time.p10, time.p50, time.p90))),),
    )


def _tokens(n: float | None) -> str:
    return NOT_MEASURED if n is None else f"{n:g}"


def points(caption: str, columns: tuple[str, ...], *values: Sequence[float | int | str]) -> Table:
    """The numbers behind a chart, one column for each of ``values``."""
    rows = tuple(tuple(anything(v) for v in row) for row in zip(*values, strict=True))
    return Table(caption, columns, rows, folded=True)


def mapping(caption: str, columns: tuple[str, str], values: Mapping[str, object]) -> Table:
    """Names and what they stand for; nested mappings as ``outer, inner``."""
    return Table(caption, columns, tuple((words(name), anything(value)) for name, value in _flat(values)))


def _flat(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    flat: list[tuple[str, object]] = []
    for name, value in values.items():
        path = f"{prefix}{name}"
        flat += _flat(value, f"{path}, ") if isinstance(value, Mapping) else [(path, value)]
    return flat
