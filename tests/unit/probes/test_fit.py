"""Fitting: the right tokens, nothing along a removed direction, and a choice made on validation data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from probes.fold import fold_sequence
from probes.train.collect import Activations
from probes.train.encode import Encoded
from probes.train.fit import Condition, Fitted, Task, choose, fit_concept, fit_layer, training_rows
from probes.train.progress import Silent
from probes.train.readings import READINGS
from probes.types import FoldKind, Scope

D = 6


def encoded(label: int, n: int, scope: Scope, targets: tuple[int, ...] | None = None) -> Encoded:
    return Encoded(tuple(range(n)), scope, 0, n, label, targets or (label,) * n, (1.0,) * n)


def collected(folder: Path, examples: list[Encoded], layers: list[torch.Tensor]) -> Activations:
    folder.mkdir()
    save_file({f"layer.{i}": x.contiguous() for i, x in enumerate(layers)}, folder / "s.safetensors")
    return Activations(tuple(examples), (folder / "s.safetensors",))


def make(folder: Path, scope: Scope, seed: int, *, signal_at: int, n: int = 80, n_layers: int = 2) -> Activations:
    """Noise, but at layer 1 the last token of a positive is shifted along axis ``signal_at``."""
    generator = torch.Generator().manual_seed(seed)
    examples = [encoded(i % 2, 3 + i % 4, scope) for i in range(n)]
    total = sum(e.n_read for e in examples)
    layers = [torch.randn(total, D, generator=generator) for _ in range(n_layers)]
    end = 0
    for e in examples:
        end += e.n_read
        layers[1][end - 1, signal_at] += 8.0 * e.label
    return collected(folder, examples, layers)


def make_task(tmp_path: Path, removed: torch.Tensor | None = None) -> Task:
    train: dict[Condition, Activations] = {"plain": make(tmp_path / "t", Scope.LAST_USER, 0, signal_at=2)}
    validation: dict[Condition, Activations] = {"plain": make(tmp_path / "v", Scope.LAST_USER, 1, signal_at=2)}
    return Task(train, validation, 0.1, removed, 0)


def test_the_layer_and_the_fold_that_carry_the_signal_are_chosen(tmp_path: Path) -> None:
    best = choose(fit_concept(make_task(tmp_path), 2, Silent(), what="test"))
    assert (best.layer, best.reading.fold.kind) == (1, FoldKind.LAST)
    assert best.auroc["plain"] > 0.99
    assert best.weights.abs().argmax() == 2


def test_every_layer_and_reading_is_reported(tmp_path: Path) -> None:
    candidates = fit_concept(make_task(tmp_path), 2, Silent(), what="test")
    assert len({(c.layer, str(c.reading)) for c in candidates}) == 2 * len(READINGS["prompt"])
    assert {"layer", "reading", "auroc_plain", "tpr_plain", "separation"} <= candidates[0].report().keys()


def test_a_probe_does_not_read_the_removed_direction(tmp_path: Path) -> None:
    removed = torch.zeros(D)
    removed[2] = 1.0
    for candidate in fit_layer(make_task(tmp_path, removed), 1):
        assert abs(float(candidate.weights @ removed)) < 1e-6
        assert candidate.auroc["plain"] < 0.8


def test_a_probe_that_fails_under_ablation_loses_to_one_that_does_not() -> None:
    def candidate(layer: int, **auroc: float) -> Fitted:
        return Fitted(layer, READINGS["prompt"][0], torch.zeros(D), 0.0, auroc, dict.fromkeys(auroc, 1.0), 1.0)

    fragile, robust = candidate(0, plain=1.0, ablated=0.6), candidate(1, plain=0.97, ablated=0.97)
    assert choose([fragile, robust]) is robust


def test_among_equals_the_earlier_layer_is_chosen() -> None:
    made = [
        Fitted(i, READINGS["prompt"][0], torch.zeros(D), 0.0, {"plain": 0.99}, {"plain": 1.0}, 2.0) for i in (2, 1, 3)
    ]
    assert choose(made).layer == 1


def test_training_rows_are_last_tokens_means_or_all_tokens() -> None:
    examples = [encoded(1, 2, Scope.RESPONSE, (0, 1)), encoded(0, 3, Scope.RESPONSE)]
    x, offsets = torch.randn(5, D), torch.tensor([0, 2, 5])
    last, labels, _ = training_rows(x, examples, offsets, "last")
    torch.testing.assert_close(last, x[[1, 4]])
    assert labels.tolist() == [1, 0]
    means, _, _ = training_rows(x, examples, offsets, "means")
    torch.testing.assert_close(means, torch.stack([x[:2].mean(0), x[2:].mean(0)]))
    tokens, targets, _ = training_rows(x, examples, offsets, "tokens")
    assert tokens is x
    assert targets.tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("phase", ["prompt", "response"])
def test_the_statistic_is_the_engines_fold_over_the_engines_scores(tmp_path: Path, phase: str) -> None:
    from probes.train.fit import score_examples

    scope = Scope.LAST_USER if phase == "prompt" else Scope.RESPONSE
    activations = make(tmp_path / "a", scope, 3, signal_at=0, n=6)
    x, weights, bias = activations.layer(1), torch.randn(D), 0.3
    for reading in READINGS[phase]:
        found = score_examples(x, activations, weights, bias, reading)
        for i in range(6):
            scores = x[activations.offsets[i] : activations.offsets[i + 1]] @ weights + bias
            folded = fold_sequence(reading.fold, scores).numpy()
            expected = folded[-1] if phase == "prompt" else np.nanmax(folded)
            np.testing.assert_allclose(found[i], expected, rtol=1e-4)
