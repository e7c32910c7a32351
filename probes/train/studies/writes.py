"""A probe's statistic as an exact sum over what wrote to the residual stream.

The score of a token is linear in the stream, and the stream is a sum (:mod:`.trace`): each write's share is its
projection on the probe's weights. This is the *direct* effect: what a head contributes through later layers is part of
those layers' writes.

Source: the logit's decomposition as in Elhage et al. 2021, "A mathematical framework for transformer circuits".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.train.encode import Encoded
from probes.train.model import LoadedModel
from probes.train.studies.explained import read
from probes.train.studies.served import ServedProbe
from probes.train.studies.trace import Trace, embed, n_heads, output_projection, pad_ids, run, traced


@dataclass(frozen=True)
class Shares:
    """Shares of the statistic of ``n`` examples.

    Attributes:
        parts: of each write, by name (``embedding``, ``layer 0 attention``, ``layer 0 MLP``, ..., ``bias``): ``(n,)``
            fp64. They sum to the statistic.
        heads: ``(n, n_layers, n_heads)`` fp64. head_bias: ``(n, n_layers)`` fp64. Both together sum to the attention
            writes.
        statistic: ``(n,)`` fp64.
    """

    parts: dict[str, Tensor]
    heads: Tensor
    head_bias: Tensor
    statistic: Tensor


@torch.no_grad()
def direct_shares(model: LoadedModel, probe: ServedProbe, examples: Sequence[Encoded]) -> Shares:
    """Divide the statistic of a few examples (one batch) among everything that wrote to the stream.

    Raises:
        DataError: an example has too few tokens in scope.
        ModelFormatError: the architecture's writes do not add up to its stream, or it has no o_proj.
    """
    ids, mask = pad_ids(model, [e.ids for e in examples])
    with traced(model, probe.layer) as trace:
        run(model, embed(model, ids), mask)
    trace.check(model.architecture)
    found = read(probe, trace.stream, examples)
    weights = probe.weights.to(trace.stream).double()

    def share(write: Tensor) -> Tensor:
        return ((write.double() @ weights) * found.weights).sum(dim=1)

    parts = {"embedding": share(trace.embedding)}
    parts |= {part_name(layer, kind): share(write) for (layer, kind), write in trace.writes.items()}
    parts["bias"] = probe.bias * found.weights.sum(dim=1) + found.constant
    by_layer = [_heads(model, trace, layer, weights) for layer in range(probe.layer + 1)]
    return Shares(
        parts=parts,
        heads=torch.stack([(heads * found.weights[..., None]).sum(dim=1) for heads, _ in by_layer], dim=1),
        head_bias=torch.stack([(bias * found.weights).sum(dim=1) for _, bias in by_layer], dim=1),
        statistic=found.statistic,
    )


def part_name(layer: int, kind: str) -> str:
    """What people call a write."""
    return f"layer {layer} {kind}"


def _heads(model: LoadedModel, trace: Trace, layer: int, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Projections on ``weights``: of every head ``(n, n_tokens, n_heads)``, and of o_proj's bias ``(n, n_tokens)``."""
    projection = output_projection(model, layer)
    pulled = _factor(model, trace, layer) * weights  # (n, n_tokens, d_model): the norm, taken over to the probe's side
    heads = trace.heads[layer].double()
    through = pulled @ projection.weight.double()  # (n, n_tokens, n_heads * head_width)
    by_head = (heads * through).view(*heads.shape[:-1], n_heads(model), -1).sum(dim=-1)
    bias = torch.zeros_like(pulled[..., 0]) if projection.bias is None else pulled @ projection.bias.double()
    return by_head, bias


def _factor(model: LoadedModel, trace: Trace, layer: int) -> Tensor:
    """What the norm behind attention multiplies each coordinate of each token by: ``(n, n_tokens, d_model)`` fp64.

    An RMS norm is ``gain * x / rms(x)``. Its gain, up to a factor, is what it makes of a vector of ones; the factor of
    a token is then the one that takes its input to its output.
    """
    before, after = trace.projected[layer].double(), trace.writes[layer, "attention"].double()
    norm = model.writers[1 + 2 * layer]
    if norm is getattr(model.layers[layer], "self_attn", None):
        return torch.ones_like(before)
    gain: Tensor = norm(torch.ones_like(trace.stream[:1, :1])).double()[0, 0]
    scaled = before * gain
    factor: Tensor = (scaled * after).sum(dim=-1, keepdim=True) / scaled.square().sum(dim=-1, keepdim=True)
    return gain * factor
