"""The whole card: every part filled, unscored examples counted, and nothing computed twice in two ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evaluation_samples import judged, probe_for, scored
from sklearn.metrics import average_precision_score, roc_auc_score

from probes.cards import ProbeCard
from probes.errors import DataError
from probes.train.evaluation.card import probe_card, reads
from probes.train.progress import Silent
from probes.types import FoldKind, FoldSpec, Scope


@pytest.fixture(scope="module")
def sample():
    return judged()


@pytest.fixture(scope="module")
def card(sample) -> ProbeCard:
    return probe_card(sample, Silent())


def filled(statistic: np.ndarray) -> np.ndarray:
    """Unscored below everything."""
    return np.nan_to_num(statistic, nan=-1e9)


def test_headline_figures_agree_with_scikit_learn(card: ProbeCard, sample) -> None:
    labels, statistic = sample.test.labels, filled(sample.test.statistic)
    assert card.auroc.value == pytest.approx(roc_auc_score(labels, statistic))
    assert card.auprc.value == pytest.approx(average_precision_score(labels, statistic))
    assert card.by_seed == pytest.approx([roc_auc_score(labels, filled(s)) for s in sample.seeds])
    assert card.conditions["auroc_ablated"] == pytest.approx(card.auroc.value)  # a constant was added
    assert card.conditions["tpr_ablated"] >= card.tpr_at["0.05"].value


def test_served_rates_are_at_the_validation_threshold_not_at_one_of_the_test_split(card: ProbeCard, sample) -> None:
    labels, statistic = sample.test.labels, filled(sample.test.statistic)
    for rate, threshold in zip(("0.05", "0.1"), sample.probe.thresholds[:2], strict=True):
        assert card.tpr_at[rate].value == (statistic[labels == 1] >= threshold.value).mean()
        assert card.measured_fpr_at[rate] == (statistic[labels == 0] >= threshold.value).mean()
        own = card.conditions[f"tpr_at_test_fpr_{rate}"]
        passing = [c for c in np.unique(statistic) if (statistic[labels == 0] >= c).mean() <= float(rate)]
        assert own == (statistic[labels == 1] >= min(passing)).mean()
        assert card.conditions[f"tpr_at_test_fpr_{rate}_low"] <= own <= card.conditions[f"tpr_at_test_fpr_{rate}_high"]
    assert list(card.tpr_at) == ["0.05", "0.1"]


def test_the_rate_on_the_test_negatives_stands_with_its_interval_beside_the_one_that_was_allowed(card) -> None:
    assert card.fpr_interval_at.keys() == card.measured_fpr_at.keys() == card.tpr_at.keys()
    for rate, (low, high) in card.fpr_interval_at.items():
        assert low < card.measured_fpr_at[rate] < high


def test_intervals_draw_whole_families_and_say_how_many_or_draw_examples_where_families_are_few(card, sample) -> None:
    assert card.n_families == 10
    few = tuple(e.model_copy(update={"family": f"family{e.label}"}) for e in sample.test.examples)
    other = probe_card(replace(sample, test=replace(sample.test, examples=few)), Silent())
    assert other.n_families is None
    assert other.auroc.value == card.auroc.value
    assert (other.auroc.low, other.auroc.high) != (card.auroc.low, card.auroc.high)


def test_probabilities_are_judged_by_the_scores_that_verdicts_report(card, sample) -> None:
    assert card.calibration.score == "reported"
    scores = sample.test.reported(sample.probe)
    probabilities = np.array([sample.probe.calibration.probability(s) for s in scores])
    assert card.calibration.brier == pytest.approx(((probabilities - sample.test.labels) ** 2).mean())


def test_a_second_threshold_of_the_same_rate_is_reported_by_its_method(card: ProbeCard, sample) -> None:
    statistic = filled(sample.test.statistic)[sample.test.labels == 1]
    conformal = sample.probe.thresholds[2]
    assert (conformal.method, conformal.fpr) == ("conformal", 0.05)
    assert card.conditions["tpr_conformal_0.05"] == (statistic >= conformal.value).mean()


def test_every_part_is_filled_and_survives_json(card: ProbeCard) -> None:
    assert ProbeCard.model_validate_json(card.model_dump_json()) == card
    assert [c.kind for c in card.comparisons] == ["text"] * 3 + ["control"] * 4
    assert card.detection.n_tripped + card.detection.n_missed == card.n_positive == 120
    assert card.shifts[0].name == "long_context"
    assert card.heat_maps
    assert card.by_length
    assert card.by_source
    assert card.worst
    assert card.cascade[0].deferred == 0
    assert (
        card.reads == "the response, without the token that ends it; fold mean, from 3 tokens on; judged at every token"
    )


def test_the_same_seed_gives_the_same_card() -> None:
    assert probe_card(judged(120), Silent()) == probe_card(judged(120), Silent())


def test_unscored_examples_are_counted_and_never_trip(sample) -> None:
    statistic = sample.test.statistic.copy()
    positives = np.flatnonzero(sample.test.labels == 1)
    statistic[positives[:30]] = np.nan
    shifted = replace(sample.shifts["long_context"], statistic=np.full(40, np.nan))
    found = probe_card(
        replace(
            sample,
            test=replace(sample.test, statistic=statistic),
            conditions={"ablated": statistic},
            shifts={"long_context": shifted},
        ),
        Silent(),
    )
    assert found.n_unscored == 30
    assert found.tpr_at["0.05"].value <= 0.75
    assert (found.conditions["n_unscored_ablated"], found.conditions["n_unscored_shift_long_context"]) == (30, 40)
    assert (found.shifts[0].fnr, found.shifts[0].fpr, found.shifts[0].auroc) == (1, 0, 0)  # ranked at their worst
    assert sum(found.histograms.positive) == 90


def test_a_probe_that_tells_nothing_has_a_card_that_says_so() -> None:
    few = judged(120)
    test = replace(scored(6, "test"), statistic=np.full(6, few.probe.thresholds[0].value))
    same = np.zeros(6)
    found = probe_card(
        replace(
            few, test=test, conditions={}, seeds=(same,), refit=lambda _: same, random=lambda _: (same, same),
            untrained=same,
        ),
        Silent(),
    )  # fmt: skip
    assert (found.auroc.value, found.auroc.low, found.auroc.high) == (0.5, 0.5, 0.5)
    assert found.tpr_at["0.05"].low < found.tpr_at["0.05"].value == found.measured_fpr_at["0.05"] == 1.0
    assert found.conditions["tpr_at_test_fpr_0.05"] == 0.0  # no cut of equal scores keeps the rate
    assert sum(found.histograms.positive) == sum(found.histograms.negative) == 3


def test_a_prompt_probe_has_a_card_without_detection() -> None:
    fold = FoldSpec(kind=FoldKind.LAST)
    found = probe_card(judged(120, scope=Scope.LAST_USER, fold=fold), Silent())
    assert found.detection is None
    assert found.reads.endswith("fold last; judged once, after the last prompt token")


def test_a_test_split_without_scores_or_with_one_label_is_refused(sample) -> None:
    nothing = replace(sample.test, statistic=np.full(240, np.nan))
    with pytest.raises(DataError, match="none of 120 test negatives has a score"):
        probe_card(replace(sample, test=nothing), Silent())
    one = scored(240, "test")
    one = replace(one, examples=tuple(e.model_copy(update={"label": 1}) for e in one.examples))
    with pytest.raises(DataError, match=r"all 240 test examples have label \[1\]"):
        probe_card(replace(sample, test=one), Silent())


def test_what_is_read_is_told_in_words() -> None:
    probe = probe_for(scored(240, "validation"))
    assert "the whole prompt; fold mean" in reads(probe.model_copy(update={"scope": Scope.PROMPT}))
