"""Candidates: means by hand, behaviour as log-odds, effects in a model whose behaviour is known, and the choice."""

from __future__ import annotations

from pathlib import Path

import planted
import pytest
import torch

from probes.errors import DataError
from probes.template import find_markers
from probes.train.cases import of_both_labels
from probes.train.collect import Activations, collect
from probes.train.data import Example
from probes.train.directions.behaviour import Cases, FirstTokens, Situation, by_behaviour, find_first_tokens, log_odds
from probes.train.directions.means import Difference, at_positions, over_responses
from probes.train.directions.passes import nothing
from probes.train.directions.select import Candidate, choose, measure, measure_all
from probes.train.encode import encode_example
from probes.train.model import LoadedModel, forward, recorded
from probes.train.progress import Silent
from tests.support.probe_samples import rows

PROMPTS = planted.prompts()
BEHAVIOUR = FirstTokens("refusal", (planted.NO,))
CASES = Cases(
    tuple(Situation(p.ids) for p in PROMPTS if p.label == 1), tuple(Situation(p.ids) for p in PROMPTS if p.label == 0)
)
LABELS = {k: torch.tensor([p.label == k for p in PROMPTS]) for k in (0, 1)}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return planted.planted_model()


@pytest.fixture(scope="module")
def activations(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Activations:
    return collect(model, PROMPTS, tmp_path_factory.mktemp("planted") / "a", Silent(), what="planted")


def test_a_difference_of_means_is_that_of_the_embeddings(model: LoadedModel, activations: Activations) -> None:
    found = at_positions(activations, 3, LABELS, Silent())
    weights = model.network.model.embed_tokens.weight.double()
    harmful, harmless = (weights[list(kind)].mean(0) for kind in (planted.HARMFUL, planted.HARMLESS))
    assert [(d.layer, d.position) for d in found] == [(i, "last_prompt_token") for i in range(3)]
    for difference in found:
        torch.testing.assert_close(difference.vector, harmful - harmless)
        assert float(difference.unit.norm()) == pytest.approx(1.0)
        wanted = harmless @ (harmful - harmless) / (harmful - harmless).norm() ** 2
        assert difference.origin == pytest.approx(float(wanted))


def test_responses_count_equally_whatever_their_length(model: LoadedModel, activations: Activations) -> None:
    found = over_responses(activations, 3, LABELS, Silent())
    weights = model.network.model.embed_tokens.weight.double()
    means = [
        torch.stack([weights[list(p.ids)].mean(0) for p in PROMPTS if p.label == label]).mean(0) for label in (1, 0)
    ]
    assert {d.position for d in found} == {"response_mean"}
    torch.testing.assert_close(found[2].vector, means[0] - means[1])


def test_every_post_instruction_token_is_a_candidate(refusing: LoadedModel, tmp_path: Path) -> None:
    tokenizer = refusing.tokenizer
    encoded = [
        encode_example(tokenizer, find_markers(tokenizer), Example.model_validate(r), 128)
        for r in rows("refusal", {"train": 12})
    ]
    activations = collect(refusing, encoded, tmp_path / "a", Silent(), what="refusing")
    chosen = {k: torch.tensor([e.label == k for e in encoded]) for k in (0, 1)}
    found = at_positions(activations, 3, chosen, Silent())
    assert [d.position for d in found[:2]] == ["last_prompt_token", "post_instruction[-2]"]  # <|assistant|>, <|end|>
    assert len(found) == 6
    means = []
    for label in (1, 0):
        read = []
        for e in (e for e in encoded if e.label == label):
            with recorded(refusing) as store:
                forward(refusing, [e.ids])
            read.append(store[2][0, -2].double())
        means.append(torch.stack(read).mean(0))
    torch.testing.assert_close(found[5].vector, means[0] - means[1], rtol=1e-4, atol=1e-5)


def test_examples_of_one_label_have_no_difference(activations: Activations) -> None:
    with pytest.raises(DataError, match="no examples of one label"):
        at_positions(activations, 3, {1: LABELS[1], 0: LABELS[0] & False}, Silent())


def test_log_odds_are_those_of_the_tokens() -> None:
    logits = torch.randn(4, 10)
    p = logits.double().softmax(1)[:, [2, 5]].sum(1)
    torch.testing.assert_close(log_odds(logits, (2, 5)), torch.log(p / (1 - p)))


def test_the_first_tokens_of_refusals_are_found(model: LoadedModel) -> None:
    assert find_first_tokens(model, PROMPTS, "refusal", nothing).tokens == (planted.NO,)


def test_a_model_that_does_not_refuse_is_told_so(model: LoadedModel) -> None:
    harmless = [planted.prompt(t, label=i % 2) for i, t in enumerate(planted.HARMLESS)]
    with pytest.raises(DataError, match="Does it show the behaviour at all"):
        find_first_tokens(model, harmless, "refusal", nothing)


def test_situations_are_kept_only_if_the_model_does_as_their_label_says() -> None:
    situations = [Situation((i,)) for i in range(4)]
    cases, kept = by_behaviour(situations, [1, 1, 0, 0], torch.tensor([2.0, -1.0, -3.0, 1.0]), "refusal")
    assert cases == Cases((situations[0],), (situations[2],))
    assert kept == [True, False, True, False]
    with pytest.raises(DataError, match=r"of 2 situations .* in 0 positives and not in 1 negatives"):
        by_behaviour(situations[:2], [1, 0], torch.tensor([-1.0, -1.0]), "refusal")


def test_a_sample_has_at_most_so_many_of_each_kind_spread_over_all() -> None:
    cases = Cases(tuple(Situation((i,)) for i in range(30)), tuple(Situation((i,)) for i in range(3)))
    assert [s.prompt[0] for s in cases.sample(7).present] == [0, 4, 8, 12, 17, 21, 25]
    assert cases.sample(7).absent == cases.absent


@pytest.mark.parametrize("n", [256, 257, 400, 511, 512])
def test_labels_that_take_turns_are_both_kept_where_a_split_is_thinned(n: int) -> None:
    examples = [planted.prompt(planted.HARMFUL[0], label=i % 2) for i in range(n)]
    kept = of_both_labels(examples, 64)
    assert [e.label for e in kept] == [1] * 64 + [0] * 64
    assert of_both_labels(examples[:3], 64) == (examples[1], examples[0], examples[2])


def by_hand(model: LoadedModel, last: int, along: float) -> float:
    """Log-odds of NO after the token ``last`` with its first coordinate set to ``along``."""
    x = model.network.model.embed_tokens.weight[last].double().clone()
    x[0] = along
    logit = planted.GAIN * float(x[0] / (x.pow(2).mean() + model.network.config.rms_norm_eps).sqrt())
    return logit - float(torch.tensor(planted.VOCABULARY - 1.0).log())


def test_effects_are_those_computed_by_hand(model: LoadedModel) -> None:
    step = 5.0
    found = measure(model, Difference(1, "last_prompt_token", planted.axis().double() * step, torch.zeros(16).double()),
                    BEHAVIOUR, CASES)  # fmt: skip
    bypass = [by_hand(model, t, 0.0) for t in planted.HARMFUL]
    induce = [by_hand(model, t, planted.HARMLESS_AT + step) for t in planted.HARMLESS]
    assert found.bypass == pytest.approx(sum(bypass) / 10, abs=1e-4)
    assert found.induce == pytest.approx(sum(induce) / 10, abs=1e-4)
    assert (found.bypass_rate, found.induce_rate) == (1.0, 1.0)
    odds = torch.tensor([[by_hand(model, t, at) for at in (planted.HARMLESS_AT, 0.0)] for t in planted.HARMLESS])
    p, q = odds.double().sigmoid().T
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()  # the other tokens share their part equally
    assert found.kl == pytest.approx(float(kl.mean()), abs=1e-5)


def test_a_direction_that_only_separates_has_no_effect(model: LoadedModel) -> None:
    other = torch.eye(16)[3].double()
    found = measure(model, Difference(1, "last_prompt_token", other, other * 0), BEHAVIOUR, CASES)
    assert (found.bypass_rate, found.induce_rate) == (0.0, 0.0)


def test_the_last_fifth_of_the_layers_is_not_tried(model: LoadedModel, activations: Activations) -> None:
    found = measure_all(model, at_positions(activations, 3, LABELS, Silent()), BEHAVIOUR, CASES, Silent())
    assert [c.difference.layer for c in found] == [0, 1, 2]  # 2 < 0.8 * 3
    late = [Difference(3, "last_prompt_token", planted.axis().double(), planted.axis().double())]
    assert measure_all(model, late, BEHAVIOUR, CASES, Silent()) == []


def made(layer: int, rate: float, bypass: float, *, induce: float = 1.0, kl: float = 0.0) -> Candidate:
    difference = Difference(layer, "last_prompt_token", torch.ones(1).double(), torch.ones(1).double())
    return Candidate(difference, bypass, induce, rate, rate, kl)


def test_the_lowest_bypass_score_is_chosen_among_those_that_flip_as_many() -> None:
    assert choose([made(0, 1.0, -9.0), made(1, 1.0, -3.0)]).difference.layer == 0
    assert choose([made(0, 0.8, -9.0), made(1, 1.0, -3.0)]).difference.layer == 1


def test_a_candidate_that_disturbs_or_does_not_induce_is_not_chosen() -> None:
    good = made(2, 0.9, -3.0, kl=0.05)
    assert choose([made(0, 1.0, -9.0, kl=0.5), made(1, 1.0, -9.0, induce=-0.1), good]) is good


def test_without_an_admissible_candidate_a_gentle_one_is_taken_and_says_so() -> None:
    gentle = made(1, 0.2, -1.0, induce=-1.0)
    chosen = choose([made(0, 1.0, -9.0, kl=0.5), gentle])
    assert chosen is gentle
    assert not chosen.admissible
    assert choose([made(0, 1.0, -9.0, kl=0.5)]).difference.layer == 0
