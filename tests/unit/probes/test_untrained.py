"""The untrained twin: the same architecture, other weights, and the same ones for the same seed."""

from __future__ import annotations

import torch

from probes.train.model import LoadedModel, forward, recorded
from probes.train.untrained import untrained_twin


def activations(model: LoadedModel) -> torch.Tensor:
    with recorded(model) as store:
        forward(model, [[2, 5, 9, 11]])
    return store[1]


def test_a_twin_has_the_shape_of_the_model_and_none_of_its_weights(loaded: LoadedModel) -> None:
    twin = untrained_twin(loaded, 7)  # the fixture's model is itself drawn, with seed 0
    assert len(twin.layers) == len(loaded.layers)
    assert twin.tokenizer is loaded.tokenizer
    for (name, ours), (_, theirs) in zip(
        loaded.network.named_parameters(), twin.network.named_parameters(), strict=True
    ):
        assert ours.shape == theirs.shape
        assert ours.dim() == 1 or not torch.equal(ours, theirs), name


def test_a_twin_is_decided_by_its_seed_and_leaves_the_callers_random_numbers_alone(loaded: LoadedModel) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (activations(untrained_twin(loaded, seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
