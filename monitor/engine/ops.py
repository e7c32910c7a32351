"""The arithmetic of taps and operators.

Plain functions over persistent tensors. Under torch.compile they are traced into the model's graph, where the compiler
fuses them with their neighbours; eagerly on the CPU, what no token of the step needs is left out. Only the store of
the scores is a custom op (registered through vLLM's ``direct_register_custom_op``), so that it mutates the persistent
buffer in place and is never moved.

The stream of a fused layer is the sum of two halves; an operator gets the half that it may change and, if there is one,
the ``other`` half. Directions are the rows v_1..v_k of ``units``; s_i is a token's strength for v_i, m_i the magnitude.

    ablate          w <- w - s_i (w · v_i) v_i               for every write w, one direction after the other
    ablate_output   h <- h - s_i (h · v_i) v_i               for every layer's output h
    clamp           h <- h + s_i (clip(p, low_i, high_i) - p) v_i   with p = h · v_i, at the layer of v_i
    add             h <- h + s_i m_i v_i                     at the layer of v_i

in this order; the bounds of ``clamp`` are in units of m_i. With a condition, s_i is multiplied by
``sigmoid(sharpness (score - threshold))`` of the same token's score at the same or an earlier layer.

Source: ablate as in Arditi et al. 2024 (arXiv:2406.11717), section 2.4; the condition as in Lee et al. 2024
(arXiv:2409.05907), with a probe's score in the place of a cosine.

Runs in: vLLM worker, inside the forward pass; must not synchronise with a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

# Fields of the steering table, its second axis.
ADD, ABLATE, ABLATE_OUTPUT, CLAMP, LOW, HIGH = range(6)
ADD_GATE, CLAMP_GATE = 6, 9  # first of three: column of the score (-1: none), sharpness, threshold
N_FIELDS = 12


def _store(values: Tensor, scores: Tensor, column: int) -> None:
    """Write one layer's token scores into its columns.

    Args:
        values: ``(n, k)`` fp32.
        scores: ``(max_tokens, n_columns)`` fp32, mutated in rows ``[:n]``, columns ``[column:column+k]``.
        column: first column of this layer.
    """
    scores[: values.shape[0], column : column + values.shape[1]] = values


class Kinds(NamedTuple):
    """What may have to be done at a layer's output."""

    ablate_output: bool
    clamp: bool
    add: bool
    conditions: bool


def steer_output(
    stream: Tensor, other: Tensor | None, scores: Tensor, units: Tensor, gram: Tensor, here: Tensor, table: Tensor,
    kinds: Kinds,
) -> None:  # fmt: skip
    """``ablate_output``, ``clamp`` and ``add`` on a layer's output.

    Args:
        stream: ``(n, d_model)``, mutated. other: ``(n, d_model)`` or None.
        scores: ``(max_tokens, n_columns)`` fp32, as far as the taps of this pass have written it.
        units: ``(k, d_model)`` fp32. gram: ``(k, k)``, their inner products.
        here: ``(k,)`` fp32, each direction's magnitude if it belongs to this layer, else 0.
        table: ``(max_tokens, N_FIELDS, k)`` fp32, each token's strengths.
        kinds: what to do.
    """
    rows = table[: stream.shape[0]]
    change = torch.zeros_like(rows[:, 0])
    if kinds.ablate_output or kinds.clamp:
        before = project(whole(stream, other), units)
        if kinds.ablate_output:
            change = _ablate(before, rows[:, ABLATE_OUTPUT], gram)
        if kinds.clamp:
            strength = rows[:, CLAMP] * (here > 0)
            if kinds.conditions:
                strength = strength * _condition(rows[:, CLAMP_GATE : CLAMP_GATE + 3], scores)
            for i in _used(strength):
                p = before[:, i] + _product(change, gram[i])
                bounded = torch.minimum(torch.maximum(p, rows[:, LOW, i] * here[i]), rows[:, HIGH, i] * here[i])
                change = _with(change, i, strength[:, i] * (bounded - p))
    if kinds.add:
        strength = rows[:, ADD] * here
        if kinds.conditions:
            strength = strength * _condition(rows[:, ADD_GATE : ADD_GATE + 3], scores)
        change = change + strength
    stream += _combine(change, units).to(stream.dtype)


def steer_write(write: Tensor, units: Tensor, gram: Tensor, table: Tensor) -> None:
    """``ablate`` on what a block is about to add to the stream.

    Args:
        write: ``(n, d_model)``, mutated. units, gram, table: as in :func:`steer_output`.
    """
    strength = table[: write.shape[0], ABLATE]
    x = write.to(torch.float32)
    write.copy_(x + _combine(_ablate(project(x, units), strength, gram), units))


def _ablate(before: Tensor, strength: Tensor, gram: Tensor) -> Tensor:
    """Coefficients ``(n, k)`` of the directions that ablating one after the other adds to projections ``before``."""
    change = torch.zeros_like(strength)
    for i in _used(strength):
        change = _with(change, i, -strength[:, i] * (before[:, i] + _product(change, gram[i])))
    return change


def project(x: Tensor, units: Tensor) -> Tensor:
    """``x @ units.T``: ``(n, k)``; in a graph as a reduction, which the compiler fuses with what x comes from."""
    return (x.unsqueeze(1) * units).sum(-1) if torch.compiler.is_compiling() else x @ units.T


def _combine(change: Tensor, units: Tensor) -> Tensor:
    """``change @ units``: ``(n, d_model)``; in a graph as a sum over the directions."""
    return (change.unsqueeze(2) * units).sum(1) if torch.compiler.is_compiling() else change @ units


def _product(change: Tensor, row: Tensor) -> Tensor:
    """``change @ row``: ``(n,)``."""
    return (change * row).sum(-1)


def _with(change: Tensor, i: int, more: Tensor) -> Tensor:
    """``change`` with ``more`` added in column i."""
    return torch.cat([change[:, :i], (change[:, i] + more).unsqueeze(1), change[:, i + 1 :]], dim=1)


def whole(stream: Tensor, other: Tensor | None) -> Tensor:
    """The activation in fp32, ``(n, d_model)``: summed in the model's dtype, as the next layer's norm sums it."""
    return (stream if other is None else stream + other).to(torch.float32)


def _condition(gate: Tensor, scores: Tensor) -> Tensor:
    """Each direction's factor for each token, ``(n, k)``; 1 without a condition and where the score is missing.

    Args:
        gate: ``(n, 3, k)``: column, sharpness, threshold. scores: ``(max_tokens, n_columns)``.
    """
    column = gate[:, 0].to(torch.int64)
    score = scores[: gate.shape[0]].gather(1, column.clamp(min=0))
    factor = torch.sigmoid(gate[:, 1] * (score - gate[:, 2]))
    return torch.where((column >= 0) & ~torch.isnan(factor), factor, 1.0)


def _used(strength: Tensor) -> Iterable[int]:
    """Directions with any strength in this step; all of them in a graph, and on a GPU, where asking synchronises."""
    if torch.compiler.is_compiling() or strength.device.type != "cpu":
        return range(strength.shape[1])
    found: list[int] = strength.any(0).nonzero().flatten().tolist()
    return found


def _store_fake(values: Tensor, scores: Tensor, column: int) -> None:
    """Shape function: only mutates."""


def register_ops() -> None:
    """Define ``torch.ops.vllm.plumbline_store``; a second call does nothing."""
    if hasattr(torch.ops.vllm, "plumbline_store"):
        return
    from vllm.utils.torch_utils import direct_register_custom_op  # noqa: PLC0415  # the formulas are tested without vLLM

    direct_register_custom_op("plumbline_store", _store, mutates_args=["scores"], fake_impl=_store_fake)
