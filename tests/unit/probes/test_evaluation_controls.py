"""Text baselines and controls: they find what is there to be found, and nothing where there is nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from evaluation_samples import conversation, judged, scored
from sklearn.metrics import roc_auc_score

from probes.train.data import Message
from probes.train.evaluation.baselines import baseline_scores, text_baselines
from probes.train.evaluation.controls import N_DIRECTIONS, N_PERMUTATIONS, controls
from probes.train.metrics import auroc
from probes.train.progress import Silent


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
    found = text_baselines(*splits, probe, 0, Silent())
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
            random=lambda rng: drawn.append(rng.normal()) or sample.test.statistic,
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
    found = controls(replace(sample, random=lambda _: -sample.test.statistic, untrained=None), Silent())
    assert found[2].auroc.value == auroc(sample.test.statistic, scored(240, "test", seed=2).labels)
    assert found[2].gap.value == 0
    assert len(found) == 3
