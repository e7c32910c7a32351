"""The drawings of a probe. Lines and marks differ by shape as well as by colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from probes.cards import CalibrationCard, Candidate, CascadePoint, Curve, Estimate, Histograms, ProbeCard
from probes.report.svg import INK, LINES, MARKERS, SERIES, draw, percent
from probes.report.text import limit, short


def roc(name: str, card: ProbeCard) -> str:
    """True-positive rate against false-positive rate, linear and logarithmic, with the operating points."""
    # Below half a negative the axis would show rates that this many negatives cannot measure.
    floor = min(0.5 / max(card.n_negative, 1), 0.1)

    def paint(figure: Figure) -> None:
        linear, logarithmic = figure.subplots(1, 2, sharey=True)
        for axes, low in ((linear, 0.0), (logarithmic, floor)):
            x = [max(v, low) for v in card.roc.x]
            axes.plot(x, card.roc.y, color=SERIES[0], drawstyle="steps-post")
            chance = [low + (1 - low) * (i / 100) ** 3 for i in range(101)]
            axes.plot(chance, chance, color=INK, linestyle=":", linewidth=1)
            _operating_points(axes, card, low)
            axes.set(xlabel="false-positive rate", ylim=(-0.02, 1.03))
            axes.xaxis.set_major_formatter(percent)
        linear.yaxis.set_major_formatter(percent)
        linear.set(ylabel="true-positive rate", title="linear", xlim=(-0.02, 1.0))
        logarithmic.set(title="logarithmic", xscale="log", xlim=(floor, 1.0))
        logarithmic.xaxis.set_major_formatter(percent)

    points = ", ".join(f"{e.value:.1%} at a false-positive rate of at most {limit(f)}" for f, e in card.tpr_at.items())
    alt = (
        f"ROC curve, linear and logarithmic. AUROC {card.auroc.value:.3f}; true-positive rate {points or 'not given'}."
    )
    return draw(name, (7.4, 3.0), paint, alt)


def _operating_points(axes: Axes, card: ProbeCard, low: float) -> None:
    for (fpr, tpr), marker, color in zip(card.tpr_at.items(), cycle(MARKERS), cycle(SERIES[1:])):
        if fpr not in card.measured_fpr_at:
            continue
        at = max(card.measured_fpr_at[fpr], low)
        bars = [[max(tpr.value - tpr.low, 0)], [max(tpr.high - tpr.value, 0)]]
        axes.errorbar([at], [tpr.value], yerr=bars, fmt=marker, color=color, capsize=3, label=f"FPR ≤ {limit(fpr)}")
    if low == 0.0 and card.measured_fpr_at:
        axes.legend(loc="lower right")


def by_layer(name: str, candidates: Sequence[Candidate]) -> str:
    """The best AUROC of each estimator at each layer, with lowest and highest seed."""
    best: dict[str, dict[int, Candidate]] = {}
    for c in candidates:
        known = best.setdefault(c.estimator, {}).get(c.layer)
        if known is None or c.auroc.value > known.auroc.value:
            best[c.estimator][c.layer] = c

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for (estimator, layers), line, marker, color in zip(best.items(), cycle(LINES), cycle(MARKERS), cycle(SERIES)):
            tops = [layers[i] for i in sorted(layers)]
            x, y = [c.layer for c in tops], [c.auroc.value for c in tops]
            bars = _bars([c.auroc for c in tops])
            drawn = axes.errorbar(x, y, yerr=bars, label=short(estimator), color=color, capsize=2, elinewidth=1)
            drawn.lines[0].set(linestyle=line, marker=marker)
        for c in (c for c in candidates if c.chosen):
            axes.plot([c.layer], [c.auroc.value], "o", markersize=12, fillstyle="none", color=INK, label="chosen")
        axes.axhline(0.5, color=INK, linestyle=":", linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="layer", ylabel="AUROC, validation")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")

    chosen = "; ".join(f"chosen: layer {c.layer}, AUROC {c.auroc.value:.3f}" for c in candidates if c.chosen)
    return draw(name, (7.4, 2.8), paint, f"AUROC on the validation split by layer, {len(best)} estimators. {chosen}")


def calibration(name: str, card: CalibrationCard) -> str:
    """Observed share of positives against predicted probability."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1, label="perfect")
        x, y = [b.predicted for b in card.bins], [b.observed for b in card.bins]
        most = max((b.n for b in card.bins), default=1) or 1
        axes.plot(x, y, color=SERIES[0], linewidth=1)
        axes.scatter(x, y, s=[12 + 90 * b.n / most for b in card.bins], color=SERIES[0], label="bin, area by examples")
        axes.set(xlabel="predicted probability", ylabel="observed share", xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
        axes.legend(loc="upper left")

    alt = (
        f"Reliability diagram of {len(card.bins)} bins. Calibration error {card.ece:.3f}, Brier score {card.brier:.3f}."
    )
    return draw(name, (4.6, 3.2), paint, alt)


def histograms(name: str, card: Histograms, thresholds: Mapping[float, float]) -> str:
    """Folded scores by label, with the thresholds. ``thresholds``: logit by allowed false-positive rate."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        kinds = ((card.negative, "negatives", SERIES[0], "//"), (card.positive, "positives", SERIES[1], "\\\\"))
        for counts, label, color, hatch in kinds:
            shares = [n / max(sum(counts), 1) for n in counts]
            look = axes.stairs(shares, card.edges, fill=True, label=label)
            look.set(edgecolor=color, facecolor="none", linewidth=1.4, hatch=hatch)
        for (fpr, value), line in zip(thresholds.items(), cycle(LINES[1:])):
            axes.axvline(value, color=INK, linestyle=line, linewidth=1.2, label=f"threshold, FPR ≤ {limit(fpr)}")
        axes.yaxis.set_major_formatter(percent)
        axes.set(xlabel="score (logit)", ylabel="share of the label")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")

    alt = f"Histogram of scores: {sum(card.positive)} positives, {sum(card.negative)} negatives, " + (
        "; ".join(f"threshold {v:.3f} at FPR {limit(f)}" for f, v in thresholds.items()) or "no threshold"
    )
    return draw(name, (7.4, 2.6), paint, alt)


def cascade(name: str, points: Sequence[CascadePoint]) -> str:
    """Error of probe and judge together against the share that the judge sees."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([p.deferred for p in points], [p.error for p in points], color=SERIES[0], marker=MARKERS[0])
        axes.xaxis.set_major_formatter(percent)
        axes.yaxis.set_major_formatter(percent)
        axes.set(xlabel="share deferred to the judge", ylabel="error of both", ylim=(0, None))

    ends = f"from {points[0].error:.1%} with none deferred to {points[-1].error:.1%} with {points[-1].deferred:.0%}"
    return draw(name, (5.2, 2.6), paint, f"Error of the cascade against the share deferred: {ends}.")


def forest(name: str, rows: Sequence[tuple[str, Estimate, str]]) -> str:
    """AUROCs with their intervals below each other. ``rows``: label, figure, ``probe``, ``text`` or ``control``."""
    looks = {"probe": (MARKERS[0], SERIES[0]), "text": (MARKERS[1], SERIES[1]), "control": (MARKERS[2], SERIES[2])}
    names = {"probe": "probe", "text": "text baseline", "control": "control"}

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for kind, (marker, color) in looks.items():
            at = [(i, e) for i, (_, e, k) in enumerate(rows) if k == kind]
            found = [e for _, e in at]
            if at:
                x, y = [e.value for e in found], [i for i, _ in at]
                axes.errorbar(x, y, xerr=_bars(found), fmt=marker, color=color, capsize=3, label=names[kind])
        axes.axvline(0.5, color=INK, linestyle=":", linewidth=1, label="chance")
        axes.set_yticks(range(len(rows)), [short(label, 60) for label, _, _ in rows])
        axes.set(xlabel="AUROC", ylim=(len(rows) - 0.5, -0.5))
        axes.grid(visible=False, axis="y")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")

    said = "; ".join(f"{short(label)} {e.value:.3f}" for label, e, _ in rows)
    return draw(name, (7.4, 0.9 + 0.26 * len(rows)), paint, f"AUROC with intervals: {said}.")


def line(name: str, curve: Curve, title: str, x: str, y: str) -> str:
    """One plain line, for a study."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        marker = MARKERS[0] if len(curve.x) <= 60 else ""
        axes.plot(curve.x, curve.y, color=SERIES[0], marker=marker)
        axes.set(xlabel=short(x), ylabel=short(y))

    return draw(name, (5.6, 2.8), paint, f"{title}: {len(curve.x)} points.")


def _bars(found: Sequence[Estimate]) -> list[list[float]]:
    """Lengths below and above, as matplotlib wants them."""
    return [[max(e.value - e.low, 0) for e in found], [max(e.high - e.value, 0) for e in found]]
