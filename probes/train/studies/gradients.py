"""Gradient x activation: to first order, by how much the statistic falls if a part is taken away.

Other than the exact shares (:mod:`.writes`) these count what a part does through later layers and other tokens, and
other than those they are an approximation: :mod:`.deletion` measures how good a one.

Source: Simonyan et al. 2014 (arXiv:1312.6034) and Shrikumar et al. 2017 (arXiv:1704.02685) for inputs; attribution
patching (Nanda 2023; Syed et al. 2023, arXiv:2310.10348) for heads and MLPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.train.encode import Encoded
from probes.train.model import LoadedModel
from probes.train.studies.explained import statistic
from probes.train.studies.served import ServedProbe
from probes.train.studies.trace import embed, n_heads, pad_ids, run, traced


@dataclass(frozen=True)
class Gradients:
    """Attributions of one batch of ``n`` examples.

    Attributes:
        tokens: ``(n, longest)`` fp64, gradient x (input embedding - neutral embedding); 0 on padding.
        heads: ``(n, n_layers, n_heads)`` fp64, gradient x what enters o_proj, summed over tokens.
        mlps: ``(n, n_layers)`` fp64, gradient x what the MLP writes, summed over tokens.
        statistic: ``(n,)`` fp64.
    """

    tokens: Tensor
    heads: Tensor
    mlps: Tensor
    statistic: Tensor


def gradients(model: LoadedModel, probe: ServedProbe, examples: Sequence[Encoded], neutral: Tensor) -> Gradients:
    """Attribute the statistic of a few examples (one batch) to tokens, heads and MLPs up to the probe's layer.

    Args:
        model: its weights get no gradients.
        probe: whose statistic is attributed.
        examples: one batch.
        neutral: ``(d_model,)`` fp32, the embedding of a token that says nothing; zeros give gradient x input.

    Raises:
        DataError: an example has too few tokens in scope.
        ModelFormatError: attention without o_proj.
    """
    ids, mask = pad_ids(model, [e.ids for e in examples])
    embedded = embed(model, ids).requires_grad_()
    n_layers = probe.layer + 1
    with torch.enable_grad(), traced(model, probe.layer) as trace:
        run(model, embedded, mask)
        found = statistic(probe, trace.stream, examples)
        heads = [trace.heads[i] for i in range(n_layers)]
        mlps = [trace.writes[i, "MLP"] for i in range(n_layers)]
        slopes = torch.autograd.grad(found.sum(), [embedded, *heads, *mlps])
    of_heads, of_mlps = slopes[1 : 1 + n_layers], slopes[1 + n_layers :]
    products = [_times(s, z).view(*z.shape[:-1], n_heads(model), -1) for s, z in zip(of_heads, heads, strict=True)]
    by_head = [product.sum(dim=(1, -1)) for product in products]
    by_mlp = [_times(s, write).sum(dim=(1, 2)) for s, write in zip(of_mlps, mlps, strict=True)]
    return Gradients(
        tokens=_times(slopes[0], embedded - neutral.to(embedded)).sum(dim=-1) * mask,
        heads=torch.stack(by_head, dim=1),
        mlps=torch.stack(by_mlp, dim=1),
        statistic=found.detach(),
    )


def _times(slope: Tensor, value: Tensor) -> Tensor:
    return slope.double() * value.detach().double()


def neutral_embedding(model: LoadedModel, examples: Sequence[Encoded]) -> Tensor:
    """Mean embedding of all tokens of ``examples``, each as often as it stands there: ``(d_model,)`` fp32."""
    ids = torch.tensor([i for e in examples for i in e.ids])
    found, counts = torch.unique(ids, return_counts=True)
    vectors = embed(model, found[None].to(model.device))[0]
    mean: Tensor = (counts / counts.sum()).to(vectors) @ vectors
    return mean
