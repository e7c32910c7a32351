"""A probe's statistic as a function of the residual stream that can be differentiated, and as a sum over tokens.

With s_t the token scores in scope, every fold's result is a sum with weights that the tokens decide,

    statistic = constant + sum over t of a_t s_t

``last`` has one weight of 1, ``mean`` has 1/n, ``max`` and its kin have them where the maximum is, ``softmax`` and
``attention`` have their weights; the constant is 0 but for ``cusum``. The weights are the statistic's gradient by the
scores; of ``softmax``, which also moves its weights, that of the attention with queries s_t / temperature kept fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes import fold as folds
from probes.errors import DataError
from probes.train.encode import Encoded
from probes.train.studies.served import ServedProbe
from probes.types import FoldKind, FoldSpec


@dataclass(frozen=True)
class Read:
    """What a probe makes of a batch.

    Attributes:
        statistic: ``(n,)`` fp64, with gradients if the stream has them.
        weights: ``(n, n_tokens)`` fp64, a_t; 0 out of scope.
        constant: ``(n,)`` fp64, what the sum over tokens leaves, without the probe's bias.
    """

    statistic: Tensor
    weights: Tensor
    constant: Tensor


def statistic(probe: ServedProbe, stream: Tensor, examples: Sequence[Encoded]) -> Tensor:
    """The number that is compared with the threshold, as :func:`probes.train.statistic.statistics` computes it.

    Args:
        probe: that reads.
        stream: ``(n, n_tokens, d_model)`` after the probe's layer, right-padded.
        examples: whose stream this is.

    Returns:
        ``(n,)`` fp64, with gradients if the stream has them.

    Raises:
        DataError: fewer tokens in scope than the fold needs.
    """
    scores, queries = _scored(probe, stream, examples)
    return _folded(probe.reading.fold, scores, queries, prompt=probe.reading.scope.phase == "prompt")


def read(probe: ServedProbe, stream: Tensor, examples: Sequence[Encoded]) -> Read:
    """The statistic with the weights of its tokens; arguments and errors as of :func:`statistic`."""
    prompt = probe.reading.scope.phase == "prompt"
    with torch.enable_grad():
        scores, queries = _scored(probe, stream.detach(), examples)
        scores = scores.detach().requires_grad_()
        fold = probe.reading.fold
        if fold.kind is FoldKind.SOFTMAX:
            queries = (scores / fold.temperature).detach()
            fold = fold.model_copy(update={"kind": FoldKind.ATTENTION})
        value = _folded(fold, scores, queries, prompt=prompt)
        (weights,) = torch.autograd.grad(value.sum(), scores)
    weights = weights.double()
    inside = torch.where(weights == 0, 0.0, weights * scores.detach().double().nan_to_num())
    return Read(statistic(probe, stream, examples), weights, value.detach() - inside.sum(dim=1))


def _scored(probe: ServedProbe, stream: Tensor, examples: Sequence[Encoded]) -> tuple[Tensor, Tensor | None]:
    """Token scores and queries, ``(n, n_tokens)`` fp32, NaN out of scope."""
    column = torch.arange(stream.shape[1], device=stream.device)
    starts, ends = (torch.tensor([getattr(e, n) for e in examples], device=stream.device) for n in ("start", "end"))
    inside = (column >= starts[:, None]) & (column < ends[:, None])
    scores = stream @ probe.weights.to(stream) + probe.bias
    outside = torch.full_like(scores, torch.nan)
    if probe.columns.query is None:
        return torch.where(inside, scores, outside), None
    return torch.where(inside, scores, outside), torch.where(inside, stream @ probe.columns.query.to(stream), outside)


def _folded(fold: FoldSpec, scores: Tensor, queries: Tensor | None, *, prompt: bool) -> Tensor:
    state = folds.init_state(fold, len(scores), scores.device)
    found, _ = folds.update(fold, state, scores, queries)
    if bool(found[:, -1].isnan().any()):
        raise DataError(f"an example has fewer than the {fold.min_tokens} tokens in scope that the fold needs.")
    if prompt:
        return found[:, -1]
    return torch.where(found.isnan(), -torch.inf, found).max(dim=1).values
