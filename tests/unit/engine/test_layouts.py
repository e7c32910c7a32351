"""Taps and operators in transformers' own models, which have some of the engine's layouts; and the refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BloomConfig, PreTrainedConfig

from monitor.engine.instrument import Instrumentation, instrument
from monitor.engine.layouts import find_blocks
from monitor.engine.ops import register_ops
from monitor.errors import EngineSetupError
from monitor.types import Steering
from probes.types import FoldKind, FoldSpec, Scope
from tests.support.families import FAMILIES
from tests.support.parity import ABLATE, STEERINGS, score_share
from tests.support.reference import Reference
from tests.support.tiny import SPECS, make_bundle, make_model, random_bundle

IDS = list(range(20, 60))
MAX_TOKENS = 64


@pytest.fixture(scope="module", autouse=True)
def ops() -> None:
    register_ops()


def make(family: str) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[family].make_config()).eval()


def steer(taps: Instrumentation, steering: tuple[Steering, ...]) -> None:
    line = taps.steering.line(steering)
    rows = np.arange(len(IDS))
    taps.steering.fill(len(IDS), rows, np.repeat(line.fields[None], len(rows), 0), line.needs)


@torch.no_grad()
def forward(model: nn.Module) -> torch.Tensor:
    return model(torch.tensor([IDS]), use_cache=False).logits[0]


# Sequential, post-norm with and without a norm before, parallel, two-layer MLP without a module of its own, positions.
@pytest.mark.parametrize("family", ["llama", "gemma3", "olmo2", "gpt-neox", "opt", "gpt2", "granite"])
def test_taps_and_operators_act_where_transformers_adds_to_the_stream(family: str, tmp_path: Path):
    path = make_model(tmp_path / "model", family)
    bundle = make_bundle(tmp_path / "bundle", path)
    reference = Reference(path, bundle, family)
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="sdpa").eval()
    taps = instrument(model, bundle, MAX_TOKENS)
    for steering in STEERINGS:
        taps.poison(len(IDS))
        steer(taps, steering)
        logits = forward(model)
        scores, wanted = reference.run(IDS, steering)
        order = [taps.probes.index(name) for name in reference.columns]
        assert score_share(taps.scores[: len(IDS), order].numpy(), scores.numpy()) <= 1
        assert (logits - wanted).abs().max() <= 1e-3 * wanted.std()


def test_columns_stand_by_layer_values_first_and_then_the_queries_of_attention_probes(tmp_path: Path):
    attention = FoldSpec(kind=FoldKind.ATTENTION)
    specs = (
        ("b", 2, attention, Scope.PROMPT), ("a", 2, FoldSpec(kind=FoldKind.LAST), Scope.PROMPT),
        ("low", 1, attention, Scope.PROMPT),
    )  # fmt: skip
    bundle = random_bundle(tmp_path / "bundle", d_model=128, n_layers=4, specs=specs)
    model = make("llama")
    taps = instrument(model, bundle, MAX_TOKENS)
    assert taps.probes == ("low", "low.query", "b", "a", "b.query")
    outputs = model(torch.tensor([IDS]), output_hidden_states=True).hidden_states
    query = torch.from_numpy(bundle.probe_query("b").copy())
    torch.testing.assert_close(taps.scores[: len(IDS), 4], (outputs[3][0] @ query).detach(), rtol=1e-4, atol=1e-4)


class Absent(nn.Identity):
    """Stands for a layer of another pipeline rank, as vLLM's PPMissingLayer does."""

    def forward(self, hidden_states, **_):
        return hidden_states


def test_a_later_pipeline_rank_taps_its_own_layers_and_leaves_the_entering_stream_alone(tmp_path: Path):
    bundle = random_bundle(tmp_path / "bundle", d_model=128, n_layers=4, specs=SPECS)
    model = make("llama")
    model.model.layers[0], model.model.layers[1] = Absent(), Absent()
    entering: list[torch.Tensor] = []
    model.model.layers[1].register_forward_hook(lambda _module, _args, output: entering.append(output.clone()))
    taps = instrument(model, bundle, MAX_TOKENS)
    steer(taps, ABLATE)
    forward(model)
    assert taps.layers == (2, 3)
    layer = {p.name: p.layer for p in bundle.manifest.probes}
    silent = [name for name, column in zip(taps.probes, taps.scores[: len(IDS)].T, strict=True) if column.isnan().all()]
    assert silent == [name for name in taps.probes if layer[name] < 2]
    direction = torch.from_numpy(bundle.direction_vector("refusal").copy())
    assert (entering[0] @ direction).abs().max() > 0.01


class Biased(nn.Module):
    """Returns its bias beside its output, as vLLM's linear layers do for the layer to add."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(128, 128, bias=False)
        self.bias = nn.Parameter(torch.randn(128))

    def forward(self, hidden_states):
        return self.linear(hidden_states), self.bias


class BiasedBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attention, self.mlp, self.input_layernorm = Biased(), Biased(), nn.LayerNorm(128)

    def forward(self, hidden_states):
        normed = self.input_layernorm(hidden_states)
        for module in (self.self_attention, self.mlp):
            write, bias = module(normed)
            hidden_states = hidden_states + (write + bias)
        return hidden_states


class BiasedModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h = nn.ModuleList(BiasedBlock() for _ in range(4))

    def forward(self, hidden_states):
        for layer in self.h:
            hidden_states = layer(hidden_states)
        return hidden_states


@torch.no_grad()
def test_a_bias_that_the_layer_adds_later_is_projected_for_steered_tokens_and_stays_as_it_is(tmp_path: Path):
    torch.manual_seed(0)
    bundle = random_bundle(tmp_path / "bundle", d_model=128, n_layers=4)
    model = BiasedModel()
    direction = torch.from_numpy(bundle.direction_vector("refusal").copy())
    stream = torch.randn(len(IDS), 128)
    plain, before = model(stream.clone()), model.h[0].mlp.bias.clone()
    taps = instrument(model, bundle, MAX_TOKENS)
    line = taps.steering.line(ABLATE)
    taps.steering.fill(len(IDS), np.array([3]), line.fields[None], line.needs)
    steered = model(stream.clone())
    assert (steered[3] @ direction).abs() < 1e-4 < (plain[3] @ direction).abs()
    torch.testing.assert_close(steered[4:], plain[4:])
    assert torch.equal(model.h[0].mlp.bias, before)


def test_a_model_without_one_list_of_as_many_layers_is_refused_with_what_was_found():
    with pytest.raises(EngineSetupError, match=r"LlamaForCausalLM has 0 lists of 5 layers \(none\)"):
        find_blocks(make("llama"), 5)
    twice = nn.ModuleDict({"a": make("llama"), "b": make("llama")})
    with pytest.raises(EngineSetupError, match=r"2 lists of 4 layers \(a.model.layers, b.model.layers\)"):
        find_blocks(twice, 4)


def test_a_layer_of_no_known_kind_is_refused_with_its_children():
    model = make("llama")
    model.model.layers[2].extra = nn.Linear(2, 2)
    with pytest.raises(EngineSetupError, match=r"layer 2 \(LlamaDecoderLayer\) is of no known kind.*extra.*mlp"):
        find_blocks(model, 4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FAMILIES["opt"].make_config(do_layer_norm_before=False), "do_layer_norm_before = False, wanted True"),
        (
            BloomConfig(hidden_size=64, n_layer=4, n_head=4, apply_residual_connection_post_layernorm=True),
            "apply_residual_connection_post_layernorm = True, wanted False",
        ),
    ],
)
def test_a_layer_that_normalises_the_stream_itself_is_refused(config: PreTrainedConfig, message: str):
    with pytest.raises(EngineSetupError, match=message):
        find_blocks(AutoModelForCausalLM.from_config(config), 4)


def test_a_layer_that_returns_something_else_is_refused_when_it_first_runs(tmp_path: Path):
    bundle = random_bundle(tmp_path / "bundle", d_model=128, n_layers=4)
    model = make("falcon")  # transformers' Falcon returns attention weights beside the stream
    instrument(model, bundle, MAX_TOKENS)
    with pytest.raises(EngineSetupError, match=r"layer 0 \(FalconDecoderLayer\) returned .*; wanted one tensor"):
        forward(model)
