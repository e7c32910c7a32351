"""The residual stream of a real transformers model: recorded, ablated, added to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from probes.errors import ModelFormatError, ShapeError
from probes.train.model import LoadedModel, ablated, added, forward, next_logits, recorded, wrap_model
from tests.support.probe_samples import D_MODEL, N_LAYERS

IDS = [[2, 4, 20, 21, 22, 6, 5], [2, 4, 30, 6, 5], [2, 4, 40, 41, 42, 43, 44, 6, 5]]


@pytest.fixture
def unit() -> torch.Tensor:
    vector = torch.randn(D_MODEL)
    return vector / vector.norm()


def test_recorded_activations_are_transformers_hidden_states_and_right_at_the_last_layer(loaded: LoadedModel) -> None:
    with recorded(loaded) as store:
        forward(loaded, [IDS[0]])
    reference = loaded.network(torch.tensor([IDS[0]]), output_hidden_states=True).hidden_states
    for layer in range(N_LAYERS - 1):
        torch.testing.assert_close(store[layer], reference[layer + 1])
    # transformers' last entry is after the final norm; the activation is before it
    torch.testing.assert_close(loaded.network.model.norm(store[-1]), reference[-1])
    assert not torch.allclose(store[-1], reference[-1])


def test_padding_does_not_change_activations(loaded: LoadedModel) -> None:
    with recorded(loaded) as store:
        forward(loaded, IDS)
        batch = [s.clone() for s in store]
        for row, ids in enumerate(IDS):
            forward(loaded, [ids])
            for layer in range(N_LAYERS):
                torch.testing.assert_close(batch[layer][row, : len(ids)], store[layer][0], rtol=1e-4, atol=1e-4)


def test_logits_are_those_of_the_model_at_the_last_token(loaded: LoadedModel) -> None:
    logits = next_logits(loaded, IDS)
    for row, ids in enumerate(IDS):
        torch.testing.assert_close(logits[row], loaded.network(torch.tensor([ids])).logits[0, -1], rtol=1e-4, atol=1e-4)


def test_after_ablation_no_activation_has_a_component_along_the_direction(
    loaded: LoadedModel, unit: torch.Tensor
) -> None:
    with recorded(loaded) as store, ablated(loaded, unit):
        forward(loaded, [IDS[0]])
    for activations in store:
        assert (activations @ unit).abs().max() < 1e-4


def test_ablation_equals_the_model_with_the_direction_taken_out_of_its_weights(
    loaded: LoadedModel, unit: torch.Tensor
) -> None:
    import copy

    network = copy.deepcopy(loaded.network)
    keep = torch.eye(D_MODEL) - torch.outer(unit, unit)
    with torch.no_grad():
        network.model.embed_tokens.weight.copy_(network.model.embed_tokens.weight @ keep)
        for layer in network.model.layers:
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight.copy_(keep @ linear.weight)
    with ablated(loaded, unit):
        logits = next_logits(loaded, IDS)
    torch.testing.assert_close(logits, next_logits(wrap_model(network, None), IDS), rtol=1e-3, atol=1e-3)


def test_half_an_ablation_removes_half_of_what_each_module_writes(loaded: LoadedModel, unit: torch.Tensor) -> None:
    embedding = loaded.network.model.embed_tokens
    plain = embedding(torch.tensor(IDS[0])) @ unit
    with ablated(loaded, unit, strength=0.5):
        torch.testing.assert_close(embedding(torch.tensor(IDS[0])) @ unit, plain / 2)


def test_addition_acts_after_the_tap_of_its_own_layer_and_before_the_next(loaded: LoadedModel) -> None:
    vector = torch.randn(D_MODEL) * 3
    with recorded(loaded) as store:
        forward(loaded, [IDS[0]])
        plain = [s.clone() for s in store]
        with added(loaded, 1, vector):
            forward(loaded, [IDS[0]])
    torch.testing.assert_close(store[0], plain[0])
    torch.testing.assert_close(store[1], plain[1])
    expected = loaded.layers[2](
        plain[1] + vector,
        position_embeddings=loaded.network.model.rotary_emb(plain[1], torch.arange(len(IDS[0]))[None]),
        attention_mask=None,
    )
    torch.testing.assert_close(store[2], expected, rtol=1e-4, atol=1e-4)


def test_steering_ends_with_its_context_even_after_an_error(loaded: LoadedModel, unit: torch.Tensor) -> None:
    before = next_logits(loaded, IDS)
    with pytest.raises(ZeroDivisionError), ablated(loaded, unit), added(loaded, 0, unit):
        raise ZeroDivisionError
    torch.testing.assert_close(next_logits(loaded, IDS), before)


def test_a_vector_of_another_width_is_refused(loaded: LoadedModel) -> None:
    with (
        pytest.raises(ShapeError, match=r"\(65,\) does not fit the model: wanted \(64,\)"),
        ablated(loaded, torch.ones(D_MODEL + 1)),
    ):
        pass


def test_an_architecture_without_llamas_layout_is_refused_naming_what_was_looked_for() -> None:
    class Odd(nn.Module):
        def get_input_embeddings(self) -> Any:
            return nn.Embedding(2, 2)

    with pytest.raises(ModelFormatError, match=r"Odd: no decoder blocks at model\.layers"):
        wrap_model(Odd(), None)
