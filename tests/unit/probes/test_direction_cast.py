"""Conditional steering: the threshold that is found, and what it does, in a model that can be computed by hand."""

from __future__ import annotations

import numpy as np
import planted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from probes.errors import DataError
from probes.train.directions.behaviour import FirstTokens, Situation
from probes.train.directions.cast import N_TRIED, Prompts, Steerer, effects, last_scores, search, thresholds
from probes.train.interventions import Gate
from probes.train.model import LoadedModel
from probes.train.progress import Silent

BEHAVIOUR = FirstTokens("refusal", (planted.NO,))
MARK = torch.eye(planted.D_MODEL)[1]  # what the probe reads; the direction is the first axis
MARKED, WEAK, DECOY, UNMARKED = planted.HARMLESS[:5], planted.HARMLESS[5], planted.HARMLESS[6], planted.HARMLESS[7:]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """None of the prompts is refused; some end in a token that the probe sees."""
    found = planted.planted_model()
    embedding = found.network.model.embed_tokens.weight
    embedding[:, 1] = 0.0
    embedding[list(MARKED), 1] = 2.0
    embedding[WEAK, 1], embedding[DECOY, 1] = 0.4, 0.5
    return found


@pytest.fixture
def prompts() -> Prompts:
    positives, negatives = (tuple(Situation((30, 35, t)) for t in kind) for kind in (MARKED, UNMARKED))
    return Prompts(positives, negatives)


@pytest.fixture
def steerer() -> Steerer:
    return Steerer(1, planted.axis() * 5, Gate(0, MARK, bias=-1.0, threshold=0.0, sharpness=50.0))


def test_a_prompts_score_is_that_of_its_last_token(model: LoadedModel, prompts: Prompts, steerer: Steerer) -> None:
    scores = last_scores(model, steerer.gate, [*prompts.all, Situation((MARKED[0], 31))])
    torch.testing.assert_close(scores, torch.tensor([1.0] * 5 + [-1.0] * 3 + [-1.0]))


def test_the_condition_steers_positives_only_where_addition_alone_steers_all(
    model: LoadedModel, prompts: Prompts, steerer: Steerer
) -> None:
    condition = search(model, "mark", steerer, BEHAVIOUR, prompts, Silent())
    assert condition.threshold == pytest.approx(0.0)  # halfway between marked and unmarked
    assert (condition.probe, condition.sharpness) == ("mark", 50.0)
    best = next(p for p in condition.points if p.threshold == condition.threshold)
    assert (best.f1, best.positives, best.negatives) == (1.0, 1.0, 0.0)
    found = effects(model, condition, steerer, BEHAVIOUR, prompts, Silent())
    figures = {
        (e.name.rpartition("where mark ")[2], e.steering.startswith("add 1 where")): e.after.value for e in found
    }
    assert figures == {
        ("should be steered", True): 1.0,
        ("should be steered", False): 1.0,
        ("should be left alone", True): 0.0,
        ("should be left alone", False): 1.0,
    }
    assert {e.before for e in found} == {0.0}


def test_among_thresholds_that_detect_about_alike_the_effect_decides(model: LoadedModel, steerer: Steerer) -> None:
    """The best F1 lets the one decoy through among five negatives; missing one of fifty positives costs less."""
    ends = {1: [*MARKED] * 9 + [*MARKED[:4], WEAK], 0: [*UNMARKED, UNMARKED[0], DECOY]}
    positives, negatives = (tuple(Situation((35, t)) for t in ends[label]) for label in (1, 0))
    condition = search(model, "mark", steerer, BEHAVIOUR, Prompts(positives, negatives), Silent())
    chosen = next(p for p in condition.points if p.threshold == condition.threshold)
    detects_best = max(condition.points, key=lambda p: p.f1)
    assert (detects_best.positives, detects_best.negatives) == (1.0, pytest.approx(0.2))
    assert (chosen.positives, chosen.negatives) == (pytest.approx(0.98), 0.0)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 1)), min_size=4, max_size=16))
def test_thresholds_have_the_f1_that_scikit_learn_gives_them_and_one_is_the_best(
    scored: list[tuple[float, int]],
) -> None:
    scores, labels = np.array([s for s, _ in scored]), np.array([k for _, k in scored])
    labels[0] = 1
    found = thresholds(scores, labels)
    best = max(f1_score(labels, scores >= cut) for cut in scores)
    assert 1 <= len(found) <= N_TRIED
    for threshold, f1 in found:
        assert f1 == pytest.approx(f1_score(labels, scores >= threshold))
        assert f1 >= best - 0.05 - 1e-9


def test_a_condition_needs_prompts_to_steer_and_to_leave_alone(
    model: LoadedModel, prompts: Prompts, steerer: Steerer
) -> None:
    with pytest.raises(DataError, match="there are 5 prompts to steer and 0 to leave alone"):
        search(model, "mark", steerer, BEHAVIOUR, Prompts(prompts.positives, ()), Silent())
