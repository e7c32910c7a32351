"""Fitting: the right tokens, nothing along a removed direction, and a choice made on validation data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pytest
import torch

from probes.fold import fold_sequence
from probes.train.bench import Bench
from probes.train.collect import Activations
from probes.train.encode import Encoded
from probes.train.estimators.recipes import RECIPES
from probes.train.fit import Columns, Condition, Configuration, Passes, Task, training_rows
from probes.train.judging import Figures, figures_of, mean_figures
from probes.train.progress import Silent
from probes.train.readings import READINGS, Phase, learned_reading
from probes.train.resample import bootstrap, folds, group_examples
from probes.train.select import Options, select
from probes.types import FoldKind, Scope

D = 6


@dataclass(frozen=True)
class InMemory:
    """What fitting asks of collected activations, without a disk."""

    examples: tuple[Encoded, ...]
    layers: tuple[torch.Tensor, ...]

    @property
    def offsets(self) -> torch.Tensor:
        return torch.tensor([0, *(e.n_read for e in self.examples)]).cumsum(0)

    def layer(self, index: int) -> torch.Tensor:
        return self.layers[index]


def encoded(label: int, n: int, scope: Scope, targets: tuple[int, ...] | None = None) -> Encoded:
    weights = (1.0,) * n if targets is None else tuple(1.0 if t else 0.2 for t in targets)
    return Encoded(tuple(range(n)), scope, 0, n, label, targets or (label,) * n, weights)


def make(scope: Scope, seed: int, *, signal_at: int, n: int = 80, n_layers: int = 2) -> Activations:
    """Noise, but at layer 1 a positive's last token and a negative's first are shifted along axis ``signal_at``."""
    generator = torch.Generator().manual_seed(seed)
    examples = [encoded(i % 2, 3 + i % 4, scope) for i in range(n)]
    total = sum(e.n_read for e in examples)
    layers = [torch.randn(total, D, generator=generator) for _ in range(n_layers)]
    end = 0
    for e in examples:
        end += e.n_read
        layers[1][end - 1 if e.label else end - e.n_read, signal_at] += 8.0
    return cast(Activations, InMemory(tuple(examples), tuple(layers)))


def make_task(removed: torch.Tensor | None = None, scope: Scope = Scope.LAST_USER, n_families: int = 10) -> Task:
    train: Passes = {"plain": make(scope, 0, signal_at=2)}
    validation: Passes = {"plain": make(scope, 1, signal_at=2)}
    families = tuple(f"family{i // 2 % n_families}" for i in range(80))
    return Task(train, validation, families, 0.1, removed, 0)


FAST = Options(("logistic", "mass_mean", "lda", "ridge"), (0, 1), n_seeds=3)


def test_the_layer_and_the_fold_that_carry_the_signal_are_chosen() -> None:
    found = select(Bench(make_task()), FAST, Silent(), what="test")
    assert (found.configuration.layer, found.configuration.reading.fold.kind) == (1, FoldKind.LAST)
    assert found.columns.weights[:, 0].abs().argmax() == 2
    chosen = [c for c in found.candidates if c.chosen]
    assert len(chosen) == 1
    assert chosen[0].auroc.low > 0.99
    assert len(found.seeds) == 3
    assert len({tuple(s.weights[:, 0].tolist()) for s in found.seeds}) == 3


def test_every_layer_estimator_and_reading_is_reported() -> None:
    found = select(Bench(make_task()), FAST, Silent(), what="test")
    rows = {(c.layer, c.estimator, c.reading) for c in found.candidates}
    assert len(rows) == 2 * 4 * len(READINGS["prompt"])


def test_folded_estimators_compete_and_what_cannot_be_served_is_reported_but_never_chosen() -> None:
    task = make_task(scope=Scope.RESPONSE)
    found = select(Bench(task), Options(("attention", "multi_head_max"), (1,), n_seeds=2), Silent(), what="test")
    assert [c.estimator for c in found.candidates if not c.servable] == ["multi_head_max"]
    assert found.configuration.estimator == "attention"
    assert found.columns.query is not None
    assert found.columns.loss == min(s.loss for s in found.seeds if s.loss is not None)


@pytest.mark.parametrize("estimator", list(RECIPES))
def test_a_probe_does_not_read_the_removed_direction(estimator: str) -> None:
    removed = torch.zeros(D)
    removed[2] = 1.0
    bench = Bench(make_task(removed))
    reading = learned_reading(estimator, "prompt") if estimator in ("softmax", "attention", "multi_head_max") else None
    configuration = Configuration(1, estimator, reading or READINGS["prompt"][0], RECIPES[estimator].default)
    columns = bench.fit(configuration)
    assert (columns.weights.T @ removed).abs().max() < 1e-5
    assert columns.query is None or abs(float(columns.query @ removed)) < 1e-5
    assert bench.judge(configuration, columns).auroc < 0.8


def test_a_probe_that_fails_under_ablation_is_judged_by_that() -> None:
    labels = np.array([0, 1] * 50)
    good, bad = labels * 4.0, np.zeros(100)
    statistics = cast(Mapping[Condition, np.ndarray], {"plain": good, "ablated": bad, "added": bad})
    assert figures_of(statistics, labels, 0.1).auroc == 0.5
    assert figures_of({"plain": good, "added": bad}, labels, 0.1).auroc == 1.0


def test_unscored_examples_are_ranked_at_their_worst_and_never_trip() -> None:
    labels = np.array([0, 0, 1, 1])
    figures = figures_of({"plain": np.array([1.0, np.nan, 2.0, np.nan])}, labels, 0.5)
    assert figures.auroc == pytest.approx(1 / 4)
    assert figures.tpr == 0.5


def test_spans_do_not_tell_the_true_label_to_the_control_of_shuffled_labels() -> None:
    task = make_task(scope=Scope.RESPONSE)
    train = task.train["plain"]
    # A positive's span is its last token only; were the others kept at 0, they would say that it is a positive.
    spans = tuple(
        replace(e, targets=(0,) * (e.n_read - 1) + (1,), weights=(0.2,) * (e.n_read - 1) + (1.0,)) if e.label else e
        for e in train.examples
    )
    marked = cast(Activations, InMemory(spans, tuple(train.layer(i) for i in range(2))))
    bench = Bench(replace(task, train={"plain": marked}))
    plain = Bench(task)
    reading = next(r for r in READINGS["response"] if r.rows == "tokens")
    configuration = Configuration(1, "lda", reading, RECIPES["lda"].default)
    shuffled = np.random.default_rng(0).permutation(task.labels)
    torch.testing.assert_close(
        bench.fit_labels(configuration, shuffled).weights, plain.fit_labels(configuration, shuffled).weights
    )


def test_the_mean_over_seeds_is_the_mean_of_each_figure() -> None:
    assert mean_figures([Figures(0.8, 0.2, 1.0), Figures(1.0, 0.4, 3.0)]).quality == (0.9, 0.3, 2.0)


def test_training_rows_are_last_tokens_means_or_all_tokens() -> None:
    examples = [encoded(1, 2, Scope.RESPONSE, (0, 1)), encoded(0, 3, Scope.RESPONSE)]
    x, offsets, labels = torch.randn(5, D), torch.tensor([0, 2, 5]), np.array([1, 0])
    last, targets, weights, owner = training_rows(x, examples, offsets, labels, "last")
    torch.testing.assert_close(last, x[[1, 4]])
    assert (targets.tolist(), weights.tolist(), owner.tolist()) == ([1, 0], [1, 1], [0, 1])
    means, *_ = training_rows(x, examples, offsets, labels, "means")
    torch.testing.assert_close(means, torch.stack([x[:2].mean(0), x[2:].mean(0)]))
    tokens, targets, weights, owner = training_rows(x, examples, offsets, labels, "tokens")
    assert tokens is x
    assert targets.tolist() == [0, 1, 0, 0, 0]
    assert weights.tolist() == [0.2, 1, 1, 1, 1]
    assert owner.tolist() == [0, 0, 1, 1, 1]


def test_other_labels_reach_the_tokens_that_decide_and_only_them() -> None:
    examples = [encoded(1, 2, Scope.RESPONSE, (0, 1)), encoded(0, 2, Scope.RESPONSE)]
    x, offsets = torch.randn(4, D), torch.tensor([0, 2, 4])
    _, targets, _, _ = training_rows(x, examples, offsets, np.array([0, 1]), "tokens")
    assert targets.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("phase", ["prompt", "response"])
def test_the_statistic_is_the_engines_fold_over_the_engines_scores(phase: Phase) -> None:
    scope = Scope.LAST_USER if phase == "prompt" else Scope.RESPONSE
    activations = make(scope, 3, signal_at=0, n=6)
    x, offsets = activations.layer(1), activations.offsets
    columns = Columns(torch.randn(D, 1), torch.tensor([0.3]), torch.randn(D))
    for reading in (*READINGS[phase], learned_reading("softmax", phase), learned_reading("attention", phase)):
        attends = reading.fold.kind is FoldKind.ATTENTION
        found = replace(columns, query=columns.query if attends else None).statistic(x, offsets, reading)
        for i in range(6):
            tokens = x[offsets[i] : offsets[i + 1]]
            queries = tokens @ columns.query if attends and columns.query is not None else None
            folded = fold_sequence(reading.fold, (tokens @ columns.weights)[:, 0] + 0.3, queries).numpy()
            expected = folded[-1] if phase == "prompt" else np.nanmax(folded)
            np.testing.assert_allclose(found[i], expected, rtol=1e-4)


def test_families_are_held_out_and_drawn_as_a_whole() -> None:
    families, labels = [f"f{i // 4}" for i in range(80)], np.arange(80) % 2
    groups, by_family = group_examples(families, labels)
    assert by_family
    for kept, held in folds(groups, labels, 0):
        assert not {families[i] for i in kept} & {families[i] for i in held}
    counts = bootstrap(groups, labels, 0)
    assert counts.sum() == 80
    assert all(len({counts[i] for i in range(80) if families[i] == f}) == 1 for f in families)
    assert (bootstrap(groups, labels, 1) != counts).any()


def test_with_few_families_examples_are_drawn_one_by_one() -> None:
    groups, by_family = group_examples(["a", "b"] * 40, np.arange(80) // 2 % 2)
    assert not by_family
    assert len(set(groups)) == 80


def test_tuning_prefers_what_does_better_on_held_out_families() -> None:
    """The label shows in feature 0 weakly; strong regularisation must win where noise has many dimensions."""
    task = make_task()
    tuned = Bench(task).tune(Configuration(0, "lda", READINGS["prompt"][0], 0.1))
    assert tuned.regularisation in RECIPES["lda"].grid
    assert Bench(task).tune(Configuration(1, "mass_mean", READINGS["prompt"][0], None)).regularisation is None
