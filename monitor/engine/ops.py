"""The three custom ops that taps and operators are made of.

Each op mutates one persistent tensor or the stream in place, so that a decoder layer's wrapper is traced
into the compiled graph as a single node, and the same node runs eagerly, under torch.compile and in a
captured CUDA graph. Registered through vLLM's ``direct_register_custom_op`` (the cheap dispatch path).

Runs in: vLLM worker, inside the forward pass; must not synchronise and must not allocate per layer more
than the matmul's result.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vllm.utils.torch_utils import direct_register_custom_op

from probes.linear import score_tokens


def _tap(hidden: Tensor, residual: Tensor, weights: Tensor, bias: Tensor, scores: Tensor, column: int) -> None:
    """Write this layer's token scores into its columns.

    Args:
        hidden: ``(n, d_model)``, the block's MLP output. residual: ``(n, d_model)``; the stream is their sum.
        weights: ``(d_model, k)`` fp32. bias: ``(k,)`` fp32.
        scores: ``(max_tokens, n_columns)`` fp32, mutated in rows ``[:n]``, columns ``[column:column+k]``.
        column: first column of this layer.
    """
    n, k = hidden.shape[0], bias.shape[0]
    stream = hidden.to(torch.float32) + residual.to(torch.float32)
    scores[:n, column : column + k] = score_tokens(stream, weights, bias)


def _steer_add(stream: Tensor, vectors: Tensor, strengths: Tensor, entries: Tensor, active: Tensor) -> None:
    """``stream += strengths[entry] @ vectors`` for every token.

    Args:
        stream: ``(n, d_model)``, one half of the split stream, mutated.
        vectors: ``(n_directions, d_model)`` fp32 steering vectors; zero for directions of other layers.
        strengths: ``(n_entries, n_directions)`` fp32; entry 0 is zero.
        entries: ``(max_tokens,)`` int64, each token's entry.
        active: ``(1,)`` bool on the CPU; False lets the CPU build skip a batch without steering.
    """
    if stream.device.type == "cpu" and not active:
        return
    stream += (strengths[entries[: stream.shape[0]]] @ vectors).to(stream.dtype)


def _steer_ablate(write: Tensor, units: Tensor, strengths: Tensor, entries: Tensor, active: Tensor) -> None:
    """``write -= strength * (write · unit) unit`` for every token, one direction after the other.

    Source: Arditi et al. 2024 (arXiv:2406.11717), section 2.4, applied to every write to the stream.

    Args:
        write: ``(n, d_model)``, what a block is about to add to the stream, mutated.
        units: ``(n_directions, d_model)`` fp32 unit vectors.
        strengths: ``(n_entries, n_directions)`` fp32; 1.0 removes the whole projection; entry 0 is zero.
        entries: ``(max_tokens,)`` int64. active: as in :func:`_steer_add`.
    """
    if write.device.type == "cpu" and not active:
        return
    strength = strengths[entries[: write.shape[0]]]
    x = write.to(torch.float32)
    for index in range(units.shape[0]):
        unit = units[index]
        x = x - ((x @ unit) * strength[:, index])[:, None] * unit
    write.copy_(x)


def _nothing(*_: object) -> None:
    """Shape function of an op that only mutates."""


def _tap_fake(hidden: Tensor, residual: Tensor, weights: Tensor, bias: Tensor, scores: Tensor, column: int) -> None:
    _nothing(hidden, residual, weights, bias, scores, column)


def _add_fake(stream: Tensor, vectors: Tensor, strengths: Tensor, entries: Tensor, active: Tensor) -> None:
    _nothing(stream, vectors, strengths, entries, active)


def _ablate_fake(write: Tensor, units: Tensor, strengths: Tensor, entries: Tensor, active: Tensor) -> None:
    _nothing(write, units, strengths, entries, active)


def register_ops() -> None:
    """Define ``torch.ops.vllm.plumbline_{tap,add,ablate}``; a second call does nothing."""
    if hasattr(torch.ops.vllm, "plumbline_tap"):
        return
    direct_register_custom_op("plumbline_tap", _tap, mutates_args=["scores"], fake_impl=_tap_fake)
    direct_register_custom_op("plumbline_add", _steer_add, mutates_args=["stream"], fake_impl=_add_fake)
    direct_register_custom_op("plumbline_ablate", _steer_ablate, mutates_args=["write"], fake_impl=_ablate_fake)
