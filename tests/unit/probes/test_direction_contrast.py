"""Pairs of answers: how they are found, and the choice between them that a direction should move."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from probes.train.data import Example
from probes.train.directions.behaviour import Preference, Situation
from probes.train.directions.contrast import find_pairs, situations
from probes.train.encode import Encoded
from probes.train.model import LoadedModel
from probes.types import Scope


def example(name: str, label: int, question: str = "", **fields: Any) -> Example:
    system = {"role": "system", "content": "be honest" if label else "lie"}
    user = {"role": "user", "content": question or name}
    messages = [system, user, {"role": "assistant", "content": f"answer {label}"}]
    return Example.model_validate(
        {"id": name, "concept": "honesty", "label": label, "split": "train", "messages": messages, **fields}
    )


@pytest.mark.parametrize(
    ("examples", "pairs"),
    [
        ([example("a/1", 1), example("b/0", 0), example("a/0", 0), example("c/1", 1), example("b/1", 1)],
         [(0, 2), (4, 1)]),
        ([example("p", 0, family="f"), example("q", 1, family="f"), example("r", 1, family="g")], [(1, 0)]),
        ([example("p", 1, "who?", family="f"), example("q", 0, "where?", family="f"),
          example("r", 0, "who?", family="f"), example("s", 1, "where?", family="f")], [(0, 2), (3, 1)]),
        ([example("p", 1), example("q", 1), example("r", 0), example("s", 0)], [(0, 2), (1, 3)]),
    ],
    ids=["by id", "by family", "by question", "in order"],
)  # fmt: skip
def test_pairs_are_told_by_the_first_of_id_family_and_question_that_pairs_anything(
    examples: list[Example], pairs: list[tuple[int, int]]
) -> None:
    assert find_pairs(examples) == pairs


def test_both_answers_are_offered_under_both_prompts() -> None:
    encoded = [
        Encoded((7, 8, 1, 2), Scope.RESPONSE, 2, 4, 0, (0, 0), (1.0, 1.0), 2),
        Encoded((9, 3), Scope.RESPONSE, 1, 2, 1, (1,), (1.0,), 1),
    ]
    found, labels = situations(encoded, [(1, 0)])
    assert found == [Situation((9,), (3,), (1, 2)), Situation((7, 8), (3,), (1, 2))]
    assert labels == [1, 0]


def test_a_preference_is_the_difference_of_mean_log_probabilities_per_token(loaded: LoadedModel) -> None:
    choices = [Situation((2, 4, 20), (30, 31), (40,)), Situation((2, 4), (50,), (51, 52, 53))]
    found = Preference("honesty").scores(loaded, choices)
    for value, choice in zip(found, choices, strict=True):
        rates = []
        for answer in (choice.shown, choice.hidden):
            ids = torch.tensor([[*choice.prompt, *answer]])
            with torch.no_grad():
                log_p = loaded.network(ids).logits[0].log_softmax(1)
            rates.append(sum(float(log_p[len(choice.prompt) - 1 + k, t]) for k, t in enumerate(answer)) / len(answer))
        assert float(value) == pytest.approx(rates[0] - rates[1], rel=1e-3, abs=1e-5)
