"""Attributions that must add up do, and those that estimate are compared with finite differences and with deletion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import planted
import pytest
import torch
import transformers

from probes.errors import DataError, ModelFormatError
from probes.train.data import Example, Message
from probes.train.encode import Encoded
from probes.train.fit import Columns
from probes.train.model import LoadedModel, recorded, wrap_model
from probes.train.progress import Silent
from probes.train.readings import Reading
from probes.train.studies import account
from probes.train.studies.attribution import study_attribution
from probes.train.studies.deletion import delete, without
from probes.train.studies.explained import read, statistic
from probes.train.studies.gradients import gradients, neutral_embedding
from probes.train.studies.material import Part
from probes.train.studies.served import ServedProbe
from probes.train.studies.trace import embed, output_projection, pad_ids, run, traced
from probes.train.studies.writes import direct_shares
from probes.types import FoldKind, FoldSpec, Scope

D_MODEL = 32
FOLDS = [FoldSpec(kind=kind, drift=0.3 if kind is FoldKind.CUSUM else 0.0, window=3) for kind in FoldKind]
ARCHITECTURES = ["Llama", "Qwen3", "Gemma", "Gemma2", "Gemma3Text", "Olmo2"]


def tiny(architecture: str, **options: Any) -> LoadedModel:
    """A model of this architecture with random weights, norms and biases."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=60, hidden_size=D_MODEL, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.2, pad_token_id=0,
        bos_token_id=2, eos_token_id=6, **options,
    )  # fmt: skip
    name = architecture.removesuffix("Text") + "ForCausalLM"
    network = getattr(transformers, name)(config).eval().requires_grad_(requires_grad=False)
    for parameter in network.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return wrap_model(network, None)


def example(n: int, scope: Scope = Scope.RESPONSE, start: int = 3) -> Encoded:
    ids = tuple(int(i) for i in torch.randint(7, 60, (n,)))
    return Encoded(ids, scope, start, n, 1, (1,) * (n - start), (1.0,) * (n - start), start, start)


def probe_of(fold: FoldSpec, layer: int = 1, scope: Scope = Scope.RESPONSE, width: int = D_MODEL) -> ServedProbe:
    query = torch.randn(width) * 0.3 if fold.kind is FoldKind.ATTENTION else None
    columns = Columns(torch.randn(width, 1) * 0.3, torch.tensor([0.7]), query)
    return ServedProbe("p", layer, columns, Reading(scope, fold, "tokens"), 0.0)


MEAN = FoldSpec(kind=FoldKind.MEAN)


def offline(model: LoadedModel, probe: ServedProbe, examples: list[Encoded]) -> np.ndarray:
    """The statistic as training computes it, one example at a time."""
    found = []
    for e in examples:
        with recorded(model) as layers, torch.no_grad():
            model.network(input_ids=torch.tensor([e.ids]))
        rows = layers[probe.layer][0, e.start : e.end]
        found.append(probe.columns.statistic(rows, torch.tensor([0, len(rows)]), probe.reading)[0])
    return np.array(found)


@pytest.mark.parametrize("scope", [Scope.RESPONSE, Scope.LAST_USER])
@pytest.mark.parametrize("fold", FOLDS, ids=lambda f: f.kind.value)
def test_the_statistic_is_the_one_that_training_computes_and_its_weights_rebuild_it(
    fold: FoldSpec, scope: Scope
) -> None:
    model, examples = tiny("Llama"), [example(n, scope) for n in (7, 12, 9)]
    probe = probe_of(fold, scope=scope)
    ids, mask = pad_ids(model, [e.ids for e in examples])
    with traced(model, 1) as trace, torch.no_grad():
        run(model, embed(model, ids), mask)
    found = read(probe, trace.stream, examples)
    np.testing.assert_allclose(found.statistic, offline(model, probe, examples), atol=1e-4)
    scores = (trace.stream @ probe.weights + probe.bias).double()
    rebuilt = (scores * found.weights).sum(dim=1) + found.constant
    torch.testing.assert_close(rebuilt, found.statistic, atol=1e-5, rtol=1e-5)
    if fold.kind is not FoldKind.CUSUM:
        assert found.constant.abs().max() < 1e-5


@pytest.mark.parametrize("fold", FOLDS, ids=lambda f: f.kind.value)
def test_direct_shares_add_up_to_the_score_under_every_fold(fold: FoldSpec) -> None:
    model, examples = tiny("Llama", attention_bias=True), [example(n) for n in (8, 11)]
    found = direct_shares(model, probe_of(fold), examples)
    torch.testing.assert_close(sum(found.parts.values()), found.statistic, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shares_of_writes_and_heads_add_up_in_every_architecture(architecture: str) -> None:
    model, examples = tiny(architecture), [example(n) for n in (8, 11, 5)]
    probe = probe_of(MEAN, layer=2)
    found = direct_shares(model, probe, examples)
    np.testing.assert_allclose(found.statistic, offline(model, probe, examples), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sum(found.parts.values()), found.statistic, atol=1e-3, rtol=1e-4)
    for layer in range(3):
        write = found.parts[f"layer {layer} attention"]
        torch.testing.assert_close(
            found.heads[:, layer].sum(1) + found.head_bias[:, layer], write, atol=1e-4, rtol=1e-4
        )


def test_the_share_of_a_head_is_what_the_score_loses_without_its_direct_write() -> None:
    model, e = tiny("Llama"), example(9)
    probe = probe_of(MEAN, layer=1)  # the last block: all of its effect is direct, but for its MLP
    with torch.no_grad():
        model.network.model.layers[1].mlp.down_proj.weight.zero_()
        found = direct_shares(model, probe, [e])
        before = offline(model, probe, [e])[0]
        output_projection(model, 1).weight[:, 8:16] = 0  # its second head
        after = offline(model, probe, [e])[0]
    assert float(found.heads[0, 1, 1]) == pytest.approx(before - after, abs=1e-4)


def test_scaled_writes_are_refused_rather_than_divided_wrongly() -> None:
    model = tiny("Granite", residual_multiplier=0.5)
    with pytest.raises(ModelFormatError, match="adds up to the residual stream only within"):
        direct_shares(model, probe_of(MEAN), [example(6)])


def test_a_model_without_an_output_projection_is_refused() -> None:
    model = tiny("Llama")
    model.network.model.layers[0].self_attn.o_proj = torch.nn.Sequential(model.network.model.layers[0].self_attn.o_proj)
    with pytest.raises(ModelFormatError, match=r"block 0 has no self_attn\.o_proj"):
        direct_shares(model, probe_of(MEAN), [example(6)])


@pytest.mark.parametrize("fold", [MEAN, FoldSpec(kind=FoldKind.SOFTMAX), FoldSpec(kind=FoldKind.ATTENTION)])
def test_the_gradient_is_that_of_finite_differences(fold: FoldSpec) -> None:
    model, examples, neutral = tiny("Qwen3"), [example(7), example(5)], 0.2 * torch.randn(D_MODEL)
    probe = probe_of(fold)
    found = gradients(model, probe, examples, neutral)
    ids, mask = pad_ids(model, [e.ids for e in examples])
    start, step = embed(model, ids), 1e-2  # norms are computed in fp32: a large step, and differences of fourth order

    def value(embedded: torch.Tensor) -> torch.Tensor:
        with traced(model, probe.layer) as trace, torch.no_grad():
            run(model, embedded, mask)
        return statistic(probe, trace.stream, examples)

    for token in (0, 3, 4):
        towards = torch.zeros_like(start)
        towards[:, token] = start[:, token] - neutral
        near, far = (value(start + k * step * towards) - value(start - k * step * towards) for k in (1, 2))
        slope = (8 * near - far) / (12 * step)
        torch.testing.assert_close(found.tokens[:, token], slope, atol=2e-3, rtol=2e-3)
    assert found.tokens[1, 5:].abs().max() == 0


@pytest.mark.parametrize("architecture", ["Llama", "Gemma3Text"])
def test_in_the_last_block_gradient_times_activation_is_the_exact_share(architecture: str) -> None:
    model, examples = tiny(architecture), [example(8), example(6)]
    probe = probe_of(MEAN, layer=2)
    slopes = gradients(model, probe, examples, torch.zeros(D_MODEL))
    exact = direct_shares(model, probe, examples).parts["layer 2 MLP"]
    torch.testing.assert_close(slopes.mlps[:, 2], exact, atol=1e-4, rtol=1e-4)


def test_the_neutral_embedding_is_the_mean_over_all_tokens() -> None:
    model, examples = tiny("Gemma3Text"), [example(8), example(6)]
    ids = torch.tensor([i for e in examples for i in e.ids])
    torch.testing.assert_close(neutral_embedding(model, examples), embed(model, ids[None])[0].mean(dim=0))


class Words:
    """The part of a tokenizer that attribution uses."""

    all_special_ids = (0,)

    def decode(self, ids: list[int]) -> str:
        return f"w{ids[0]}"


def planted_case() -> tuple[LoadedModel, ServedProbe, list[Encoded]]:
    """Every layer's activation is the token's embedding, and the probe reads the axis on which harmful tokens lie."""
    model = replace(planted.planted_model(), tokenizer=Words())
    reading = Reading(Scope.LAST_USER, MEAN, "means")
    probe = ServedProbe("harm", 1, Columns(planted.axis()[:, None], torch.zeros(1)), reading, 0.1)
    return model, probe, list(planted.prompts())


def test_the_planted_word_gets_all_of_the_attribution_and_its_deletion_all_of_the_fall() -> None:
    model, probe, prompts = planted_case()
    harmful = [p for p in prompts if p.label == 1]
    neutral = torch.zeros(planted.D_MODEL)
    found = gradients(model, probe, harmful[:1], neutral).tokens[0]
    assert float(found[-1]) == pytest.approx(planted.HARMFUL_AT / len(harmful[0].ids), rel=1e-4)
    assert found[:-1].abs().max() < 1e-6
    named = [gradients(model, probe, [p], neutral).tokens[0] for p in harmful]
    told: list[int] = []
    test = delete(model, probe, harmful, named, neutral, share=0.2, seed=0, advance=told.append)
    assert test.top.value == pytest.approx(np.mean([planted.HARMFUL_AT / len(p.ids) for p in harmful]), rel=1e-4)
    assert test.gap.low > 0
    assert test.still == 0 < test.still_random
    assert sum(told) == len(harmful)


def test_an_attribution_that_names_the_wrong_tokens_fails_the_deletion_test() -> None:
    model, probe, prompts = planted_case()
    harmful = [p for p in prompts if p.label == 1]
    wrong = [-torch.arange(len(p.ids)).double() for p in harmful]
    test = delete(model, probe, harmful, wrong, torch.zeros(planted.D_MODEL), share=0.2, seed=0, advance=lambda _: None)
    assert test.gap.high < 0
    assert account.deletion_failures(probe, [test])[0].found.startswith("removing them lowers the score by -")


def test_removing_nothing_changes_nothing_and_special_tokens_are_never_removed() -> None:
    model, probe, prompts = planted_case()
    whole = without(model, probe, prompts, [torch.empty(0, dtype=torch.int64)] * len(prompts), torch.zeros(16))
    np.testing.assert_allclose(whole, offline(model, probe, prompts), atol=1e-5)
    special = replace(prompts[0], ids=(0,) * len(prompts[0].ids))
    with pytest.raises(DataError, match="special tokens only"):
        delete(model, probe, [special], [torch.zeros(9)], torch.zeros(16), share=0.2, seed=0, advance=lambda _: None)


def part_of(prompts: list[Encoded]) -> Part:
    """Encoded prompts with the examples they might come from."""
    examples = tuple(
        Example(id=str(i), concept="harm", label=p.label, split="test", messages=(Message(role="user", content="x"),))
        for i, p in enumerate(prompts)
    )
    return Part(examples, tuple(prompts))


def test_the_study_says_which_write_and_which_tokens_trip_the_probe() -> None:
    model, probe, prompts = planted_case()
    studies, failures = study_attribution(model, probe, part_of(prompts), Silent())
    writes, _, tokens, faithful = studies
    by_part = {row[0]: row for row in writes.rows}
    assert by_part["embedding"][3] == pytest.approx(by_part["sum: the score"][3], rel=1e-4)
    assert tokens.title == "harm: tokens that trip it"
    assert all(row[4] > 0 for row in faithful.rows)
    assert not failures


def test_a_probe_that_never_trips_cannot_be_explained() -> None:
    model, probe, prompts = planted_case()
    with pytest.raises(DataError, match="0 of 10 positives trip"):
        study_attribution(model, replace(probe, threshold=1e3), part_of(prompts), Silent())


def test_examples_of_another_part_of_the_conversation_are_refused() -> None:
    model, probe, prompts = planted_case()
    other = replace(probe, reading=replace(probe.reading, scope=Scope.RESPONSE))
    with pytest.raises(DataError, match="reads response, the examples are labelled for last_user"):
        study_attribution(model, other, part_of(prompts), Silent())
