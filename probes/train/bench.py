"""One concept's task on the bench: fit a configuration, judge it, with one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from torch import Tensor

from probes.train.estimators.recipes import RECIPES, Folded
from probes.train.fit import Columns, Condition, Configuration, Design, Labels, Task, Values, fit_columns
from probes.train.judging import JUDGED, Figures, figures_of, mean_figures
from probes.train.readings import Phase
from probes.train.resample import bootstrap, folds, group_examples

_TUNING_FOLDS = 2


@dataclass(frozen=True)
class LayerData:
    """Training tokens and validation activations ``(n_tokens, d_model)`` by condition, of one layer."""

    design: Design
    validation: Mapping[Condition, Tensor]


class Bench:
    """Fits and judges configurations of one task.

    Args:
        task: one concept.

    Attributes:
        by_family: whether examples are held out and drawn by family, or one by one because families are too few.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.groups, self.by_family = group_examples(task.families, task.labels)
        self._folds = folds(self.groups, task.labels, task.seed)
        self._offsets = {c: a.offsets for c, a in task.validation.items()}
        self._labels = np.array([e.label for e in task.validation["plain"].examples], dtype=np.int64)
        self.at = lru_cache(maxsize=1)(self._load)

    @property
    def phase(self) -> Phase:
        """Whether the labels are about prompts or about responses."""
        return self.task.validation["plain"].examples[0].scope.phase

    def fit(self, configuration: Configuration) -> Columns:
        """Fit on the whole training split."""
        return self._fit(configuration, self.task.labels, np.ones(len(self.task.labels)), self._folds[0][1], 0)

    def fit_seed(self, configuration: Configuration, seed: int) -> Columns:
        """Fit again: dense probes on families drawn with replacement, folded ones from another start."""
        labels = self.task.labels
        if _folded(configuration):
            return self._fit(configuration, labels, np.ones(len(labels)), self._folds[0][1], seed)
        weights = bootstrap(self.groups, labels, self.task.seed + seed)
        return self._fit(configuration, labels, weights, self._folds[0][1], seed)

    def fit_labels(self, configuration: Configuration, labels: Labels) -> Columns:
        """Fit on other labels of the training examples, for a control.

        Every token of an example gets its label: spans, which positives alone have, would tell the true one.
        """
        design = self.at(configuration.layer).design
        without_spans = tuple(replace(e, weights=(1.0,) * e.n_read) for e in design.examples)
        design = replace(design, examples=without_spans)
        ones, watched = np.ones(len(labels)), self._folds[0][1]
        return fit_columns(design, configuration, labels, ones, watched=watched, seed=self.task.seed)

    def judge(self, configuration: Configuration, columns: Columns) -> Figures:
        """Figures on the validation split."""
        values = self.at(configuration.layer).validation
        found = {
            c: columns.statistic(values[c], offsets, configuration.reading)
            for c, offsets in self._offsets.items()
            if c in JUDGED
        }
        return figures_of(found, self._labels, self.task.fpr)

    def tune(self, configuration: Configuration) -> Configuration:
        """The regularisation that does best on families of the training split that were held out."""
        grid = RECIPES[configuration.estimator].grid
        parts = self._folds[: 1 if _folded(configuration) else _TUNING_FOLDS]
        tried = [replace(configuration, regularisation=r) for r in grid] or [configuration]
        if len(tried) == 1:
            return tried[0]
        quality = [mean_figures([self._inner(t, kept, held) for kept, held in parts]).quality for t in tried]
        best = max(quality)
        return next(
            (t for t, q in zip(tried, quality, strict=True) if q == best and t == configuration),
            tried[quality.index(best)],  # the one that it had, where another is no better
        )

    def _fit(
        self, configuration: Configuration, labels: Labels, weights: Values, watched: Labels, seed: int
    ) -> Columns:
        design = self.at(configuration.layer).design
        return fit_columns(design, configuration, labels, weights, watched=watched, seed=self.task.seed + seed)

    def _inner(self, configuration: Configuration, kept: Labels, held: Labels) -> Figures:
        """Figures on held-out families of the training split."""
        weights = np.zeros(len(self.task.labels))
        weights[kept] = 1.0
        columns = self._fit(configuration, self.task.labels, weights, held, 0)
        design = self.at(configuration.layer).design
        statistic = columns.statistic(design.values, design.offsets, configuration.reading)
        by_condition = statistic.reshape(len(self.task.train), -1)[:, held]
        found = dict(zip(self.task.train, by_condition, strict=True))
        return figures_of(found, self.task.labels[held], self.task.fpr)

    def _load(self, layer: int) -> LayerData:
        design = Design.of(self.task.train, layer, self.task.removed)
        return LayerData(design, {c: a.layer(layer) for c, a in self.task.validation.items()})


def _folded(configuration: Configuration) -> bool:
    return isinstance(RECIPES[configuration.estimator], Folded)
