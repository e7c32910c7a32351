"""The three custom ops that taps and operators are made of.

Each op mutates one persistent tensor or the stream in place, so that a decoder layer's wrapper is traced into the
compiled graph as a single node, and the same node runs eagerly, under torch.compile and in a captured CUDA graph.
Registered through vLLM's ``direct_register_custom_op`` (the cheap dispatch path).

The stream of a fused layer is the sum of two halves; an op gets the half that it may change and, if there is one, the
``other`` half. Directions are the rows v_1..v_k of ``units``; s_i is a token's strength for v_i, m_i the magnitude.

    ablate          w <- w - s_i (w · v_i) v_i               for every write w, one direction after the other
    ablate_output   h <- h - s_i (h · v_i) v_i               for every layer's output h
    clamp           h <- h + s_i (clip(p, low_i, high_i) - p) v_i   with p = h · v_i, at the layer of v_i
    add             h <- h + s_i m_i v_i                     at the layer of v_i

in this order; the bounds of ``clamp`` are in units of m_i. With a condition, s_i is multiplied by
``sigmoid(sharpness (score - threshold))`` of the same token's score at the same or an earlier layer.

Source: ablate as in Arditi et al. 2024 (arXiv:2406.11717), section 2.4; the condition as in Lee et al. 2024
(arXiv:2409.05907), with a probe's score in the place of a cosine.

Runs in: vLLM worker, inside the forward pass; must not synchronise with a GPU. On the CPU an op that no token of the
step needs returns at once.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from probes.linear import score_tokens

# Fields of the steering table, its second axis.
ADD, ABLATE, ABLATE_OUTPUT, CLAMP, LOW, HIGH, GATE, SHARPNESS, GATE_THRESHOLD = range(9)
N_FIELDS = 9


def _tap(stream: Tensor, other: Tensor | None, weights: Tensor, bias: Tensor, scores: Tensor, column: int) -> None:
    """Write this layer's token scores into its columns.

    Args:
        stream: ``(n, d_model)``. other: ``(n, d_model)`` or None; the activation is their sum.
        weights: ``(d_model, k)`` fp32. bias: ``(k,)`` fp32.
        scores: ``(max_tokens, n_columns)`` fp32, mutated in rows ``[:n]``, columns ``[column:column+k]``.
        column: first column of this layer.
    """
    n, k = stream.shape[0], bias.shape[0]
    scores[:n, column : column + k] = score_tokens(_whole(stream, other), weights, bias)


def _output(
    stream: Tensor, other: Tensor | None, scores: Tensor, units: Tensor, gram: Tensor, here: Tensor, table: Tensor,
    needed: Tensor, kinds: Tensor,
) -> None:  # fmt: skip
    """``ablate_output``, ``clamp`` and ``add`` on a layer's output.

    Args:
        stream: ``(n, d_model)``, mutated. other: ``(n, d_model)`` or None.
        scores: ``(max_tokens, n_columns)`` fp32, as far as the taps of this pass have written it.
        units: ``(k, d_model)`` fp32. gram: ``(k, k)``, their inner products.
        here: ``(k,)`` fp32, each direction's magnitude if it belongs to this layer, else 0.
        table: ``(max_tokens, N_FIELDS, k)`` fp32, each token's strengths.
        needed: ``()`` bool on the CPU: whether any token of the step needs this layer's op.
        kinds: ``(4,)`` bool on the CPU: ``ablate_output``, ``clamp``, ``add``, conditions in this step.
    """
    on_cpu = stream.device.type == "cpu"
    if on_cpu and not needed:
        return
    ablates, clamps, adds, conditions = kinds.tolist() if on_cpu else (True, True, True, True)
    rows = table[: stream.shape[0]]
    strength = torch.ones_like(rows[:, 0]) if not conditions else _condition(rows, scores)
    change = torch.zeros_like(rows[:, 0])
    if ablates or clamps:
        before = _whole(stream, other) @ units.T
        if ablates:
            for i in _used(rows[:, ABLATE_OUTPUT]):
                change[:, i] -= rows[:, ABLATE_OUTPUT, i] * (before[:, i] + change @ gram[i])
        if clamps:
            local = rows[:, CLAMP] * (here > 0)
            for i in _used(local):
                p = before[:, i] + change @ gram[i]
                bounded = p.clamp(rows[:, LOW, i] * here[i], rows[:, HIGH, i] * here[i])
                change[:, i] += local[:, i] * strength[:, i] * (bounded - p)
    if adds:
        change += rows[:, ADD] * strength * here
    stream += (change @ units).to(stream.dtype)


def _write(write: Tensor, units: Tensor, gram: Tensor, table: Tensor, needed: Tensor) -> None:
    """``ablate`` on what a block is about to add to the stream.

    Args:
        write: ``(n, d_model)``, mutated.
        units, gram, table, needed: as in :func:`_output`.
    """
    if write.device.type == "cpu" and not needed:
        return
    strength = table[: write.shape[0], ABLATE]
    x = write.to(torch.float32)
    before = x @ units.T
    change = torch.zeros_like(before)
    for i in _used(strength):
        change[:, i] = -strength[:, i] * (before[:, i] + change @ gram[i])
    write.copy_(torch.addmm(x, change, units))


def _whole(stream: Tensor, other: Tensor | None) -> Tensor:
    """The activation in fp32, ``(n, d_model)``: summed in the model's dtype, as the next layer's norm sums it."""
    return (stream if other is None else stream + other).to(torch.float32)


def _condition(rows: Tensor, scores: Tensor) -> Tensor:
    """Each direction's factor for each token, ``(n, k)``; 1 without a condition and where the score is missing."""
    column = rows[:, GATE].to(torch.int64)
    score = scores[: rows.shape[0]].gather(1, column.clamp(min=0))
    factor = torch.sigmoid(rows[:, SHARPNESS] * (score - rows[:, GATE_THRESHOLD]))
    return torch.where((column >= 0) & ~torch.isnan(factor), factor, 1.0)


def _used(strength: Tensor) -> Iterable[int]:
    """Directions with any strength in this step; all of them on a GPU, where asking would synchronise."""
    if strength.device.type == "cpu":
        found: list[int] = strength.any(0).nonzero().flatten().tolist()
        return found
    return range(strength.shape[1])


def _tap_fake(stream: Tensor, other: Tensor | None, weights: Tensor, bias: Tensor, scores: Tensor, column: int) -> None:
    """Shape function: only mutates."""


def _output_fake(
    stream: Tensor, other: Tensor | None, scores: Tensor, units: Tensor, gram: Tensor, here: Tensor, table: Tensor,
    needed: Tensor, kinds: Tensor,
) -> None:  # fmt: skip
    """Shape function: only mutates."""


def _write_fake(write: Tensor, units: Tensor, gram: Tensor, table: Tensor, needed: Tensor) -> None:
    """Shape function: only mutates."""


def register_ops() -> None:
    """Define ``torch.ops.vllm.plumbline_{tap,output,write}``; a second call does nothing."""
    if hasattr(torch.ops.vllm, "plumbline_tap"):
        return
    from vllm.utils.torch_utils import direct_register_custom_op  # noqa: PLC0415  # the formulas are tested without vLLM

    direct_register_custom_op("plumbline_tap", _tap, mutates_args=["scores"], fake_impl=_tap_fake)
    direct_register_custom_op("plumbline_output", _output, mutates_args=["stream"], fake_impl=_output_fake)
    direct_register_custom_op("plumbline_write", _write, mutates_args=["write"], fake_impl=_write_fake)
