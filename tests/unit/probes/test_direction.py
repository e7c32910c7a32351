"""The refusal direction of a tiny model that really refuses, judged by what it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probe_samples import D_MODEL, rows

from probes.errors import DataError
from probes.template import find_markers
from probes.train.data import Example
from probes.train.direction import (
    Candidate,
    by_behaviour,
    candidate,
    choose,
    find_refusal_tokens,
    last_logits,
    refusal_scores,
)
from probes.train.encode import Encoded, encode_example
from probes.train.model import LoadedModel, forward, recorded


@pytest.fixture(scope="module")
def prompts(refusing: LoadedModel) -> list[Encoded]:
    tokenizer: Any = refusing.tokenizer
    found = [Example.model_validate(r) for r in rows("refusal", {"train": 60})]
    return [encode_example(tokenizer, find_markers(tokenizer), e, 128) for e in found]


@pytest.fixture(scope="module")
def difference(refusing: LoadedModel, prompts: list[Encoded]) -> torch.Tensor:
    means = []
    for label in (1, 0):
        rows_ = []
        for e in (p for p in prompts if p.label == label):
            with recorded(refusing) as store:
                forward(refusing, [e.ids])
            rows_.append(store[1][0, -1].double())
        means.append(torch.stack(rows_).mean(0))
    return means[0] - means[1]


def test_refusal_tokens_are_what_the_model_says_first_to_bad_requests(
    refusing: LoadedModel, prompts: list[Encoded]
) -> None:
    tokens = find_refusal_tokens(last_logits(refusing, prompts), [p.label for p in prompts])
    assert refusing.tokenizer.convert_ids_to_tokens(list(tokens)) == ["no"]


def test_a_model_that_does_not_refuse_is_told_so(prompts: list[Encoded]) -> None:
    logits = torch.zeros(len(prompts), 9)
    logits[:, 3] = 1.0
    with pytest.raises(DataError, match="Does it refuse at all"):
        find_refusal_tokens(logits, [p.label for p in prompts])


def test_the_refusal_score_is_the_log_odds_of_its_tokens() -> None:
    logits = torch.randn(4, 10)
    p = logits.double().softmax(1)[:, [2, 5]].sum(1)
    torch.testing.assert_close(refusal_scores(logits, (2, 5)), torch.log(p / (1 - p)))


def test_ablating_the_difference_of_means_stops_refusals_and_adding_it_makes_them(
    refusing: LoadedModel, prompts: list[Encoded], difference: torch.Tensor
) -> None:
    logits = last_logits(refusing, prompts)
    tokens = find_refusal_tokens(logits, [p.label for p in prompts])
    kinds = by_behaviour(prompts, logits, tokens)
    found = candidate(refusing, 1, difference, kinds, tokens)
    assert found.bypass_rate >= 0.9
    assert found.induce_rate >= 0.9
    assert found.vector.norm() == pytest.approx(1.0)
    assert found.magnitude == pytest.approx(float(difference.norm()))
    random = candidate(refusing, 1, torch.randn(D_MODEL).double(), kinds, tokens)
    assert random.effect < 0 < found.effect


def test_prompts_are_kept_only_if_the_model_does_as_their_label_says(
    refusing: LoadedModel, prompts: list[Encoded]
) -> None:
    logits = last_logits(refusing, prompts)
    swapped = logits.clone()
    swapped[0], swapped[1] = logits[1], logits[0]  # a negative refused, a positive answered
    tokens = find_refusal_tokens(logits, [p.label for p in prompts])
    kinds = by_behaviour(prompts, swapped, tokens)
    assert prompts[0] not in kinds.answered
    assert prompts[1] not in kinds.refused


def made(layer: int, rate: float, effect: float, kl: float) -> Candidate:
    return Candidate(layer, torch.ones(1), 1.0, -effect, effect, rate, rate, kl)


def test_a_direction_that_disturbs_harmless_answers_is_not_chosen() -> None:
    strong, gentle = made(0, 1.0, 9.0, kl=0.5), made(1, 0.9, 3.0, kl=0.05)
    assert choose([strong, gentle]) is gentle
    assert choose([strong]) is strong


def test_prompts_that_flip_count_before_how_far_they_flip() -> None:
    assert choose([made(0, 0.8, 9.0, 0.0), made(1, 1.0, 3.0, 0.0)]).layer == 1
    assert choose([made(0, 1.0, 9.0, 0.0), made(1, 1.0, 3.0, 0.0)]).layer == 0


def test_a_sample_has_at_most_so_many_of_each_kind_spread_over_all(prompts: list[Encoded]) -> None:
    from probes.train.direction import RefusalPrompts

    sample = RefusalPrompts(tuple(prompts[:30]), tuple(prompts[30:])).sample(7)
    assert sample.refused == tuple(prompts[0:30:5])
    assert len(sample.answered) <= 7
