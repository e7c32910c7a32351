"""Text baselines and controls: they find what is there to be found, and nothing where there is nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_samples import both_signs, conversation, judged, scored
from sklearn.metrics import roc_auc_score

from probes.train.data import Message
from probes.train.evaluation.baselines import baseline_scores, text_baselines
from probes.train.evaluation.controls import N_DIRECTIONS, N_PERMUTATIONS, controls
from probes.train.fit import Columns
from probes.train.judged import random_directions
from probes.train.metrics import auroc
from probes.train.progress import Silent
from probes.train.statistic import statistics
from probes.types import FoldKind, FoldSpec, Scope


def examples(split: str, text, n: int = 120):
    """Examples whose text is ``text(i, label)``, with other numbers in each split."""
    first = {"train": 0, "validation": n, "test": 2 * n}[split]
    return [
        conversation(i, i % 2, split, 4, "prompt").model_copy(
            update={"messages": (Message(role="user", content=text(i, i % 2)),)}
        )
        for i in range(first, first + n)
    ]


def aurocs(text) -> dict[str, float]:
    splits = [examples(s, text) for s in ("train", "validation", "test")]
    labels = np.array([e.label for e in splits[2]])
    return {name: roc_auc_score(labels, scores) for name, scores in baseline_scores(*splits)}


def test_words_that_tell_the_label_are_found_by_the_word_baseline_but_not_by_length() -> None:
    found = aurocs(lambda i, label: f"make {'poison' if label else 'butter'} w{i % 7} w{i % 5}")
    assert found["words, TF-IDF of 1-2"] > 0.999
    assert found["characters, TF-IDF of 2-4"] > 0.999
    assert found["length"] < 0.7


def test_word_order_is_found_by_pairs_of_words() -> None:
    found = aurocs(lambda i, label: f"w{i % 9} " + ("alpha beta" if label else "beta alpha") + f" w{i % 4}")
    assert found["words, TF-IDF of 1-2"] > 0.999


def test_spelling_that_tells_the_label_is_found_by_characters_only() -> None:
    found = aurocs(lambda i, label: f"{'qz' if label else 'vk'}{i * 7919 % 997}")
    assert found["characters, TF-IDF of 2-4"] > 0.95
    assert found["words, TF-IDF of 1-2"] < 0.8


def test_length_that_tells_the_label_is_found_by_the_length_baseline_whichever_label_is_longer() -> None:
    for longer in (0, 1):
        found = aurocs(
            lambda i, label, longer=longer: " ".join(
                f"w{(i + k) % 11}" for k in range(8 + 6 * (label == longer) + i % 4)
            )
        )
        assert found["length"] > 0.999


def test_the_best_baseline_comes_first_and_the_gap_is_paired() -> None:
    splits = [
        examples(s, lambda i, label: f"{'poison' if label else 'butter'} {i % 7}")
        for s in ("train", "validation", "test")
    ]
    labels = np.array([e.label for e in splits[2]])
    probe = labels + np.random.default_rng(0).normal(size=120)
    test = replace(scored(120, "test"), examples=tuple(splits[2]), statistic=probe)
    found = text_baselines(*splits[:2], test, 0, Silent())
    values = [c.auroc.value for c in found]
    assert values == sorted(values, reverse=True)
    assert all(c.gap.value == np.float64(auroc(probe, labels) - c.auroc.value) for c in found)
    assert found[0].gap.high < 0  # the words tell more than this probe
    assert {c.kind for c in found} == {"text"}


def test_controls_are_near_chance_where_they_hold_noise_and_the_best_of_many_is_above_their_mean() -> None:
    sample = judged()
    shuffled, mean, best, untrained = controls(sample, Silent())
    assert abs(shuffled.auroc.value - 0.5) < 0.1
    assert shuffled.auroc.low <= shuffled.auroc.value <= shuffled.auroc.high
    assert 0.5 <= mean.auroc.low <= mean.auroc.value < mean.auroc.high == best.auroc.value
    assert best.gap.low > 0
    assert untrained.gap.low > 0
    assert [c.name for c in (shuffled, mean, best, untrained)] == [
        f"shuffled labels, mean of {N_PERMUTATIONS}",
        f"random direction, mean of {N_DIRECTIONS}",
        f"random direction, best of {N_DIRECTIONS}",
        "untrained model",
    ]


def test_labels_are_permuted_not_redrawn_and_each_control_is_asked_as_often_as_it_says() -> None:
    sample = judged()
    asked, drawn = [], []
    controls(
        replace(
            sample,
            refit=lambda labels: asked.append(labels) or sample.test.statistic,
            random=lambda rng: drawn.append(rng.normal()) or both_signs(sample.test.statistic),
            untrained=None,
        ),
        Silent(),
    )
    training = np.array([e.label for e in sample.train])
    assert (len(asked), len(set(drawn))) == (N_PERMUTATIONS, N_DIRECTIONS)
    assert all(a.sum() == training.sum() and (a != training).any() for a in asked)
    assert len({tuple(a) for a in asked}) == N_PERMUTATIONS


def test_a_direction_that_ranks_the_labels_the_wrong_way_round_counts_as_its_opposite() -> None:
    sample = judged()
    wrong_way_round = both_signs(-sample.test.statistic)
    found = controls(replace(sample, random=lambda _: wrong_way_round, untrained=None), Silent())
    assert found[2].auroc.value == auroc(sample.test.statistic, scored(240, "test", seed=2).labels)
    assert found[2].gap.value == 0
    assert len(found) == 3


@pytest.mark.parametrize("kind", [FoldKind.MAX, FoldKind.SOFTMAX, FoldKind.EMA_MAX])
def test_the_opposite_of_a_random_direction_is_folded_from_the_opposite_token_scores(kind: FoldKind) -> None:
    torch.manual_seed(0)
    values, offsets, fold = torch.randn(40, 6), torch.tensor([0, 15, 25, 40]), FoldSpec(kind=kind)
    asked: list[Columns] = []

    def statistic(columns: Columns) -> np.ndarray:
        asked.append(columns)
        return statistics(columns.scores(values)[:, 0], offsets, fold, Scope.RESPONSE)

    probe = Columns(torch.full((6, 1), 2.0), torch.tensor([3.0]))
    one, other = random_directions(probe, None, statistic)(np.random.default_rng(0))
    scores = asked[0].scores(values)[:, 0]
    np.testing.assert_allclose(other, statistics(-scores, offsets, fold, Scope.RESPONSE), rtol=1e-5)
    assert (other != -one).all()
    assert float(asked[0].weights.norm()) == pytest.approx(float(probe.weights.norm()))
    assert float(asked[0].bias.abs().sum()) == 0


def test_a_random_direction_does_not_read_what_was_removed_from_the_probe() -> None:
    removed, seen = torch.eye(6)[2], []
    draw = random_directions(
        Columns(torch.ones(6, 1), torch.zeros(1), torch.ones(6)), removed, lambda c: seen.append(c) or np.zeros(1)
    )
    draw(np.random.default_rng(0))
    for columns in seen:
        assert columns.weights[2].abs().max() < 1e-6
        assert abs(float(columns.query[2])) < 1e-6


def test_an_unscored_example_counts_against_the_probe_and_against_its_controls_alike() -> None:
    sample = judged()
    statistic = sample.test.statistic.copy()
    statistic[np.flatnonzero(sample.test.labels == 0)[:60]] = np.nan  # half of the negatives
    unscored = replace(sample, test=replace(sample.test, statistic=statistic), untrained=statistic)
    same = controls(replace(unscored, random=lambda _: (statistic, statistic)), Silent())
    assert same[-1].gap.value == same[-2].gap.value == 0
    assert same[-1].auroc.value < 0.55  # a negative without a score ranks above every positive
