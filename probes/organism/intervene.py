"""Directions as causes: ablating or adding one while the model runs.

Source: Arditi et al. 2024, "Refusal in language models is mediated by a single direction".
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn
from transformers import LlamaForCausalLM

Scope = Literal["prompt", "all"]
Edit = Callable[[torch.Tensor], torch.Tensor]


def ablation(direction: torch.Tensor) -> Edit:
    """Remove the component along ``direction``, ``(d_model,)``, of any norm."""
    unit = direction / direction.norm()
    return lambda stream: stream - (stream @ unit)[..., None] * unit


def addition(vector: torch.Tensor, strength: float = 1.0, scope: Scope = "all") -> Edit:
    """Add ``strength`` times the steering ``vector``, ``(d_model,)``, at every position of ``scope``.

    In cached generation the prompt is the forward pass with more than one position.
    """

    def edit(stream: torch.Tensor) -> torch.Tensor:
        return stream + strength * vector if scope == "all" or stream.shape[1] > 1 else stream

    return edit


@contextmanager
def edited(module: nn.Module, edit: Edit) -> Iterator[None]:
    """Apply ``edit`` to what ``module`` returns (the first item where it returns a tuple)."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def ablated(model: LlamaForCausalLM, direction: torch.Tensor) -> Iterator[None]:
    """Project ``direction`` out of every write: embedding, attention outputs, MLP outputs."""
    writers: list[nn.Module] = [model.model.embed_tokens]
    for layer in model.model.layers:
        writers += [layer.self_attn, layer.mlp]
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(edited(writer, ablation(direction)))
        yield


@contextmanager
def added(
    model: LlamaForCausalLM, layer: int, vector: torch.Tensor, strength: float = 1.0, scope: Scope = "all"
) -> Iterator[None]:
    """Add ``strength`` times ``vector`` to the output of 0-based ``layer``, at every position of ``scope``."""
    with edited(model.model.layers[layer], addition(vector, strength, scope)):
        yield


@contextmanager
def recorded(model: LlamaForCausalLM, outputs: list[torch.Tensor]) -> Iterator[None]:
    """Fill ``outputs`` with every layer's output, ``(n, n_positions, d_model)``, on each forward pass."""
    with ExitStack() as stack:
        for layer in model.model.layers:
            stack.enter_context(edited(layer, _recorder(outputs)))
        yield


def _recorder(outputs: list[torch.Tensor]) -> Edit:
    def record(stream: torch.Tensor) -> torch.Tensor:
        outputs.append(stream)
        return stream

    return record
