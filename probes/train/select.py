"""Which layer, reading, estimator and regularisation: chosen on data that is not the test split, in nested parts.

1. Screen: every dense estimator with every reading on every layer, at its default regularisation; the folded ones
   (slower) on the layers where a dense one did best.
2. Tune: the regularisation of the finalists, on families held out of the training split.
3. Seeds: the finalists refitted on other draws of the training families (or from other starts). Their mean on the
   validation split decides; what cannot be served is reported and never chosen.

Every configuration that was tried stays in the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probes.cards import Candidate, Estimate
from probes.train.bench import Bench
from probes.train.estimators.recipes import RECIPES, Dense, Folded
from probes.train.fit import Columns, Configuration
from probes.train.judging import Figures, mean_figures
from probes.train.progress import Reporter
from probes.train.readings import READINGS, Rows, learned_reading

N_SEEDS = 5
_FINALISTS = 4
_FOLDED_LAYERS = 2


@dataclass(frozen=True)
class Options:
    """What to choose among.

    Attributes:
        estimators: names of :data:`~probes.train.estimators.recipes.RECIPES`.
        layers: 0-based. n_seeds: refits of each finalist.
    """

    estimators: tuple[str, ...]
    layers: tuple[int, ...]
    n_seeds: int = N_SEEDS


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        configuration: the chosen one. columns: fitted on the whole training split.
        seeds: the same configuration, refitted with each seed.
        candidates: everything that was tried, with its validation figures.
    """

    configuration: Configuration
    columns: Columns
    seeds: tuple[Columns, ...]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class _Finalist:
    configuration: Configuration
    seeds: tuple[Columns, ...]
    figures: tuple[Figures, ...]

    @property
    def rank(self) -> tuple[tuple[float, float, float], int]:
        """For comparison; the earlier layer where qualities are equal."""
        return mean_figures(self.figures).quality, -self.configuration.layer


def select(bench: Bench, options: Options, reporter: Reporter, *, what: str) -> Selection:
    """Choose and fit the probe of one concept.

    Args:
        bench: with the concept's task.
        options: what to choose among; at least one estimator that can be served.
        reporter: told about progress.
        what: shown to people.
    """
    if not bench.by_family:
        reporter.say(f"{what}: fewer than five template families of a label, so that examples are drawn one by one")
    tried = _screen(bench, options, reporter, what)
    finalists = []
    # One layer in memory at a time: by layer, not by rank.
    chosen = sorted(_finalists(tried), key=lambda c: c.layer)
    with reporter.track(f"{what}: {options.n_seeds} seeds of the best", len(chosen), "probes") as advance:
        for configuration in chosen:
            finalists.append(_run_seeds(bench, bench.tune(configuration), options.n_seeds))
            advance(1)
    best = max((f for f in finalists if f.configuration.servable), key=lambda f: f.rank)
    return Selection(
        configuration=best.configuration,
        columns=_final(bench, best),
        seeds=best.seeds,
        candidates=_report(tried, chosen, finalists, best),
    )


def _screen(bench: Bench, options: Options, reporter: Reporter, what: str) -> dict[Configuration, Figures]:
    """Figures of everything at its default regularisation."""
    dense = {n: r for n in options.estimators if isinstance(r := RECIPES[n], Dense)}
    folded = {n: r for n in options.estimators if isinstance(r := RECIPES[n], Folded)}
    tried: dict[Configuration, Figures] = {}
    with reporter.track(f"{what}: every layer", len(options.layers), "layers") as advance:
        for layer in options.layers:
            for name, recipe in dense.items():
                tried |= _screen_dense(bench, layer, name, recipe)
            advance(1)
    ranked = sorted(tried, key=lambda c: (tried[c].quality, -c.layer), reverse=True)
    layers = list(dict.fromkeys(c.layer for c in ranked))[:_FOLDED_LAYERS] or list(options.layers)
    with reporter.track(f"{what}: learned folds", len(layers) * len(folded), "probes") as advance:
        for layer in sorted(layers):
            for name, slow in folded.items():
                configuration = Configuration(layer, name, learned_reading(name, bench.phase), slow.default)
                tried[configuration] = bench.judge(configuration, bench.fit(configuration))
                advance(1)
    return tried


def _screen_dense(bench: Bench, layer: int, name: str, recipe: Dense) -> dict[Configuration, Figures]:
    """One fit for each kind of rows, judged with every reading of these rows."""
    solved: dict[Rows, Columns] = {}
    found = {}
    for reading in READINGS[bench.phase]:
        configuration = Configuration(layer, name, reading, recipe.default)
        if reading.rows not in solved:
            solved[reading.rows] = bench.fit(configuration)
        found[configuration] = bench.judge(configuration, solved[reading.rows])
    return found


def _finalists(tried: Mapping[Configuration, Figures]) -> list[Configuration]:
    """The best that can be served, and the best that cannot."""
    ranked = sorted(tried, key=lambda c: (tried[c].quality, -c.layer), reverse=True)
    return [c for c in ranked if c.servable][:_FINALISTS] + [c for c in ranked if not c.servable][:1]


def _run_seeds(bench: Bench, configuration: Configuration, n_seeds: int) -> _Finalist:
    seeds = tuple(bench.fit_seed(configuration, seed) for seed in range(n_seeds))
    return _Finalist(configuration, seeds, tuple(bench.judge(configuration, columns) for columns in seeds))


def _final(bench: Bench, best: _Finalist) -> Columns:
    """A dense probe is fitted on everything; of a learned fold the start with the lowest held-out loss is taken."""
    losses = [columns.loss for columns in best.seeds]
    if all(loss is not None for loss in losses):
        return min(best.seeds, key=lambda columns: columns.loss or 0.0)
    return bench.fit(best.configuration)


def _report(
    tried: Mapping[Configuration, Figures],
    chosen: Sequence[Configuration],
    finalists: Sequence[_Finalist],
    best: _Finalist,
) -> tuple[Candidate, ...]:
    """By layer; a finalist takes the place of its screened self where its regularisation did not change."""
    rows = {c: _candidate(c, (f,)) for c, f in tried.items()}
    for configuration, finalist in zip(chosen, finalists, strict=True):
        if finalist.configuration == configuration:
            del rows[configuration]
        rows[finalist.configuration] = _candidate(finalist.configuration, finalist.figures)
    rows[best.configuration] = rows[best.configuration].model_copy(update={"chosen": True})
    return tuple(rows[c] for c in sorted(rows, key=lambda c: (c.layer, c.estimator, str(c.reading))))


def _candidate(configuration: Configuration, figures: Sequence[Figures]) -> Candidate:
    values = [f.auroc for f in figures]
    mean = mean_figures(figures)
    return Candidate(
        layer=configuration.layer,
        estimator=configuration.estimator,
        reading=str(configuration.reading),
        regularisation=configuration.regularisation,
        auroc=Estimate(value=mean.auroc, low=min(values), high=max(values)),
        tpr=mean.tpr,
        servable=configuration.servable,
    )
