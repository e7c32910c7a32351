"""What did not work is read off the cards, and nothing else is."""

from __future__ import annotations

import pytest

from probes.cards import (
    CalibrationCard,
    Candidate,
    Comparison,
    Curve,
    DirectionCard,
    Estimate,
    Histograms,
    ProbeCard,
    RandomControl,
    ShiftCase,
)
from probes.train.examples import Example
from probes.train.failures import data_failures, direction_failures, probe_failures
from probes.types import Direction, FoldKind, FoldSpec, Scope
from tests.support.tiny import make_probe

PROBE = make_probe("deceit", 1, FoldSpec(kind=FoldKind.MEAN), Scope.RESPONSE, 0.0)


def estimate(value: float, spread: float = 0.01) -> Estimate:
    return Estimate(value=value, low=value - spread, high=value + spread)


GOOD = ProbeCard(
    concept="deceit",
    reads="",
    n_positive=100,
    n_negative=100,
    n_unscored=0,
    auroc=estimate(0.98),
    auprc=estimate(0.98),
    tpr_at={"0.01": estimate(0.9)},
    measured_fpr_at={"0.01": 0.01},
    by_seed=(0.97, 0.98, 0.99),
    candidates=(
        Candidate(layer=1, estimator="lda", reading="", auroc=estimate(0.98), tpr=0.9, chosen=True),
        Candidate(layer=1, estimator="multi_head_max", reading="", auroc=estimate(0.985), tpr=0.9, servable=False),
    ),
    roc=Curve(x=(0.0, 1.0), y=(0.0, 1.0)),
    calibration=CalibrationCard(method="platt", ece=0.01, brier=0.01, bins=()),
    histograms=Histograms(edges=(0.0, 1.0), positive=(1,), negative=(1,)),
    comparisons=(
        Comparison(name="words", kind="text", auroc=estimate(0.8), gap=estimate(0.18)),
        Comparison(name="untrained model", kind="control", auroc=estimate(0.6), gap=estimate(0.38)),
        Comparison(name="shuffled labels", kind="control", auroc=estimate(0.5)),
        # The better sign of each counts, so that it lies above one half by construction.
        Comparison(name="random direction, mean of 100", kind="control", auroc=estimate(0.65)),
    ),
    shifts=(ShiftCase(name="decoys", n_positive=0, n_negative=50, fpr=0.01),),
)


def example(family: str, split: str, shift: str = "") -> Example:
    messages = [{"role": "user", "content": f"{family} {split}"}]
    raw = {"id": family + split + shift, "concept": "deceit", "label": 1, "messages": messages}
    return Example.model_validate(raw | {"source": "s", "family": family, "split": split, "shift": shift})


def test_a_family_that_is_in_two_splits_is_named_and_a_shifted_example_is_in_none() -> None:
    whole = [example("a", "train"), example("b", "test"), example("a", "test", "decoys")]
    assert list(data_failures("deceit", whole)) == []
    (found,) = data_failures("deceit", [*whole, example("a", "test"), example("c", "validation")])
    assert found.what.startswith("deceit: every template family in one split")
    assert found.found.startswith("1 of 3 families are in several splits, such as s / a;")


def test_repeated_conversations_are_counted() -> None:
    again = example("a", "train").model_copy(update={"id": "again"})
    (found,) = data_failures("deceit", [example("a", "train"), again, example("b", "test")])
    assert found.what == "deceit: every conversation once"
    assert found.found.startswith("1 of 3 repeat another one")


def test_a_probe_that_meets_every_promise_has_no_failure() -> None:
    assert list(probe_failures(PROBE, GOOD)) == []


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"n_unscored": 3}, "3 were unscored"),
        ({"by_seed": (0.8, 0.98)}, "0.800 to 0.980 over 2 seeds"),
        ({"measured_fpr_at": {"0.01": 0.03}}, "3.00% of 100 negatives"),
        (
            {"comparisons": (Comparison(name="words", kind="text", auroc=estimate(0.9), gap=estimate(0.08)),)},
            "0.080 (0.070 to 0.090) above its 0.900",
        ),
        (
            {"comparisons": (Comparison(name="words", kind="text", auroc=estimate(0.8), gap=estimate(0.2, 0.3)),)},
            "0.200 (-0.100 to 0.500) above its 0.800",
        ),
        (
            {"comparisons": (Comparison(name="twin", kind="control", auroc=estimate(0.9), gap=estimate(0.0)),)},
            "above its 0.900",
        ),
        (
            {"comparisons": (Comparison(name="shuffled labels", kind="control", auroc=estimate(0.7)),)},
            "AUROC 0.700 (0.690 to 0.710)",
        ),
        ({"shifts": (ShiftCase(name="long", n_positive=50, n_negative=0, fnr=0.5),)}, "50.0% of 50 missed"),
        ({"shifts": (ShiftCase(name="quoted", n_positive=0, n_negative=50, fpr=0.2),)}, "20.0% of 50 negatives"),
        (
            {"candidates": (GOOD.candidates[0], GOOD.candidates[1].model_copy(update={"auroc": estimate(0.999)}))},
            "the engine has no such fold",
        ),
    ],
)
def test_each_broken_promise_is_named_with_what_was_found(changed: dict[str, object], wanted: str) -> None:
    (failure,) = probe_failures(PROBE, GOOD.model_copy(update=changed))
    assert failure.what.startswith("deceit: ")
    assert wanted in failure.found


def test_a_direction_that_does_not_control_is_named() -> None:
    good = {"bypass_rate": 0.95, "induce_rate": 0.9, "kl": 0.05}
    card = DirectionCard(concept="refusal", method="", layer=1, position="", candidates=(), effects=())

    def found(metrics: dict[str, float], made: DirectionCard = card) -> list[str]:
        direction = Direction(
            name="refusal", concept="refusal", layer=1, magnitude=1.0, position="last_prompt_token", metrics=metrics
        )
        return [f.found for f in direction_failures(direction, made)]

    assert found(good) == []
    assert found({**good, "bypass_rate": 0.2}) == ["in 20% of test prompts"]
    assert found({**good, "induce_rate": 0.1}) == ["in 10% of test prompts"]
    assert found({**good, "kl": 0.3}) == ["KL of 0.30 nats at the next token"]
    loose = card.model_copy(update={"random": (RandomControl(operator="add", n=20, mean=0.01, worst=0.3),)})
    assert found(good, loose) == ["the worst of 20 changes it by 30.0%"]
