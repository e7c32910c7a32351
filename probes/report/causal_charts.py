"""The drawings of a direction: one small panel for each quantity, for their units differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from probes.cards import DirectionCandidate, DoseResponse, Effect
from probes.report.svg import INK, LINES, MARKERS, SERIES, draw, percent
from probes.report.text import short, words

Points = list[tuple[float, float]]


def dose(name: str, response: DoseResponse, rates: frozenset[str]) -> str:
    """Every quantity of one operator against strength. ``rates``: quantities that are shares."""
    panels: dict[str, dict[str, Points]] = {}
    for point in sorted(response.points, key=lambda p: p.strength):
        for quantity, value in point.values.items():
            panels.setdefault(quantity, {}).setdefault("", []).append((point.strength, value))
    ends = "; ".join(
        f"{short(words(q))} from {line[0][1]:.3g} at {line[0][0]:g} to {line[-1][1]:.3g} at {line[-1][0]:g}"
        for q, lines in panels.items()
        for line in lines.values()
    )
    return _panels(name, panels, "strength", f"Dose-response of {short(response.operator)}: {ends}.", rates)


def by_layer(name: str, tried: Sequence[DirectionCandidate]) -> str:
    """Every selection figure against layer, one line for each position."""
    panels: dict[str, dict[str, Points]] = {}
    for c in sorted(tried, key=lambda c: c.layer):
        for figure, value in c.figures.items():
            panels.setdefault(figure, {}).setdefault(c.position, []).append((c.layer, value))
    chosen = "; ".join(f"chosen: layer {c.layer}, position {short(c.position)}" for c in tried if c.chosen)
    rings = [(c.layer, c.figures) for c in tried if c.chosen]
    alt = f"Selection figures of {len(tried)} directions by layer. {chosen}"
    return _panels(name, panels, "layer", alt, frozenset(), rings)


def effects(name: str, found: Sequence[Effect]) -> str:
    """Rates before and after steering."""
    rows = [e for e in found if e.unit == "rate"]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for i, e in enumerate(rows):
            if e.before is not None:
                axes.plot([e.before, e.after.value], [i, i], color=INK, linewidth=0.8, linestyle=":")
                axes.plot(e.before, i, "o", color=SERIES[0], fillstyle="none", label="before" * (i == 0) or None)
            bars = [[max(e.after.value - e.after.low, 0)], [max(e.after.high - e.after.value, 0)]]
            label = "after, with interval" * (i == 0) or None
            axes.errorbar([e.after.value], [i], xerr=bars, fmt="s", color=SERIES[1], capsize=3, label=label)
        labels = [short(f"{words(e.name)}: {e.steering}", 60) for e in rows]
        axes.set_yticks(range(len(rows)), labels)
        axes.xaxis.set_major_formatter(percent)
        axes.set(xlim=(-0.03, 1.03), ylim=(len(rows) - 0.5, -0.5), xlabel="rate")
        axes.grid(visible=False, axis="y")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)

    said = "; ".join(f"{short(words(e.name))} under {short(e.steering)}: {e.after.value:.1%}" for e in rows)
    return draw(name, (7.4, 1.2 + 0.3 * len(rows)), paint, f"Rates before and after steering: {said}.")


def _panels(
    name: str,
    panels: Mapping[str, Mapping[str, Points]],
    x: str,
    alt: str,
    rates: frozenset[str],
    rings: Sequence[tuple[int, Mapping[str, float]]] = (),
) -> str:
    """Small panels, two or three a row, with a common horizontal axis."""
    n_columns = 2 if len(panels) in (2, 4) else 3
    n_rows = -(-len(panels) // n_columns)
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    looks = dict(zip(labels, zip(cycle(LINES), cycle(MARKERS), cycle(SERIES)), strict=False))

    def paint(figure: Figure) -> None:
        grid = figure.subplots(n_rows, n_columns, squeeze=False)
        for axes, (quantity, lines) in zip(grid.flat, panels.items(), strict=False):
            for label, line in lines.items():
                linestyle, marker, color = looks[label]
                xs, ys = zip(*line, strict=True)
                axes.plot(xs, ys, linestyle=linestyle, marker=marker, color=color, markersize=3.5)
            for layer, figures in rings:
                if quantity in figures:
                    axes.plot([layer], [figures[quantity]], "o", markersize=11, fillstyle="none", color=INK)
            axes.set(title=short(words(quantity), 34), xlabel=x)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=x == "layer"))
            if quantity in rates:
                axes.set_ylim(-0.04, 1.04)
                axes.yaxis.set_major_formatter(percent)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        if len(labels) > 1:
            handles = [Line2D([], [], linestyle=i, marker=m, color=c, label=short(n)) for n, (i, m, c) in looks.items()]
            figure.legend(handles=handles, loc="outside lower center", ncols=3)

    return draw(name, (7.4, 0.4 * (len(labels) > 1) + 2.1 * n_rows), paint, alt)
