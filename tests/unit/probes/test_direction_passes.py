"""What a steered model says, how likely it finds a text and what it writes, compared with transformers."""

from __future__ import annotations

import math
from typing import Any

import planted
import pytest
import torch
import transformers

from probes.train.directions import figures
from probes.train.directions.effects import SCOPES
from probes.train.directions.passes import Text, disturbance, greedy, log_likelihoods, next_token_logits
from probes.train.interventions import PLAIN, ablate, add
from probes.train.model import LoadedModel, wrap_model
from tests.support.probe_samples import D_MODEL

PROMPTS = [(2, 4, 20, 21, 22, 6, 5), (2, 4, 30, 6, 5), (2, 4, 40, 41, 42, 43, 44, 6, 5)]


@pytest.fixture
def unit() -> torch.Tensor:
    vector = torch.randn(D_MODEL)
    return vector / vector.norm()


@pytest.mark.parametrize("start", [1, 3])
def test_the_perplexity_of_a_text_is_transformers_loss(loaded: LoadedModel, start: int) -> None:
    found = log_likelihoods(loaded, [Text(p, start) for p in PROMPTS])
    for value, ids in zip(found, PROMPTS, strict=True):
        labels = torch.tensor([ids]).clone()
        labels[:, :start] = -100
        with torch.no_grad():
            loss = loaded.network(torch.tensor([ids]), labels=labels).loss
        assert float(value) == pytest.approx(-float(loss) * (len(ids) - start), rel=1e-4)


def test_texts_with_other_prompts_in_their_batch_keep_their_likelihood(loaded: LoadedModel) -> None:
    texts = [Text(p, s) for p, s in zip(PROMPTS, (1, 4, 7), strict=True)]
    together = log_likelihoods(loaded, texts)
    torch.testing.assert_close(together, torch.cat([log_likelihoods(loaded, [t]) for t in texts]), rtol=1e-4, atol=1e-4)


def test_an_interval_of_perplexity_holds_the_exponential_of_the_mean_loss() -> None:
    totals, counts = torch.tensor([-4.0, -9.0]).double(), torch.tensor([4, 3])
    found = figures.perplexity(totals, counts, seed=0)
    assert found.value == pytest.approx(math.exp(13 / 7))
    assert (found.low, found.high) == pytest.approx((math.exp(1), math.exp(3)))


def test_a_mean_comes_with_the_interval_of_the_normal_distribution_when_there_are_many() -> None:
    values = torch.randn(2000).double()
    found = figures.mean(values, seed=0)
    half = 1.96 * float(values.std()) / math.sqrt(2000)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.15 * half)


def test_kl_is_that_of_torch_and_agreement_counts_equal_choices(loaded: LoadedModel, unit: torch.Tensor) -> None:
    steering = add(1, unit * 8)
    found = disturbance(loaded, PROMPTS, steering)
    for row, ids in enumerate(PROMPTS):
        with torch.no_grad():
            plain = loaded.network(torch.tensor([ids])).logits[0, -1]
            with steering.applied(loaded, torch.tensor([len(ids)])):
                steered = loaded.network(torch.tensor([ids])).logits[0, -1]
        p, q = plain.log_softmax(0), steered.log_softmax(0)
        wanted = torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)
        assert float(found.kl[row]) == pytest.approx(float(wanted), rel=1e-3)
        assert bool(found.agreement[row]) == (plain.argmax() == steered.argmax())


def test_no_steering_disturbs_nothing(loaded: LoadedModel) -> None:
    found = disturbance(loaded, PROMPTS, PLAIN)
    assert found.kl.abs().max() < 1e-9
    assert found.agreement.min() == 1


def tiny(architecture: str) -> LoadedModel:
    """A model of this architecture with random weights."""
    config: Any = getattr(transformers, f"{architecture}Config")
    if architecture == "Gemma3":
        config = transformers.Gemma3TextConfig
    made = config(
        vocab_size=60,
        hidden_size=D_MODEL,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=6,
    )
    network = getattr(transformers, f"{architecture}ForCausalLM")
    return wrap_model(network(made).eval().requires_grad_(requires_grad=False), None)


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Gemma3"])
def test_text_is_what_choosing_the_likeliest_token_again_and_again_gives(architecture: str) -> None:
    model, vector = tiny(architecture), torch.randn(D_MODEL)
    for scope in SCOPES:
        steering = add(1, vector * 2, scope=scope)
        written = greedy(model, PROMPTS, 4, steering)
        for ids, found in zip(PROMPTS, written, strict=True):
            text = list(ids)
            while len(text) < len(ids) + 4:
                with steering.applied(model, torch.tensor([len(ids)])):
                    text.append(int(model.network(torch.tensor([text])).logits[0, -1].argmax()))
                if text[-1] == 6:
                    text.pop()
                    break
            assert found == tuple(text[len(ids) :])


def test_a_model_without_an_end_token_writes_to_the_limit() -> None:
    model = planted.planted_model()
    assert [len(w) for w in greedy(model, [(31, 11), (32, 33, 21)], 4, ablate(planted.axis()))] == [4, 4]


def test_every_prompt_is_done_once_and_told_so(loaded: LoadedModel) -> None:
    told: list[int] = []
    many = [PROMPTS[i % 3] for i in range(150)]
    indices = [i for batch, _ in next_token_logits(loaded, many, advance=told.append) for i in batch]
    assert sorted(indices) == list(range(150))
    assert sum(told) == 150
