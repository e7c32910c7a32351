"""Token scores: one matmul for all columns of a layer.

Shared by the engine's tap and by offline evaluation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from probes.errors import ShapeError


def score_tokens(activations: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Score every row of a batch against every column of one layer.

    Runs in: vLLM worker, inside the compiled forward pass (must not synchronise); and offline.

    Args:
        activations: ``(n_tokens, d_model)``, fp32, bf16 or fp16, residual stream after the block.
        weights: ``(d_model, n_columns)``, fp32, the training scale folded in.
        bias: ``(n_columns,)``, fp32, logits.

    Returns:
        ``(n_tokens, n_columns)``, fp32 logits on the same device. NaN means unscored, never safe.

    Raises:
        ShapeError: ``d_model`` or ``n_columns`` differ; the message names the shapes.
    """
    if activations.shape[-1] != weights.shape[0] or bias.shape[0] != weights.shape[1]:
        raise ShapeError(
            f"activations {tuple(activations.shape)}, weights {tuple(weights.shape)} and bias "
            f"{tuple(bias.shape)} do not fit: wanted (n, d_model), (d_model, n_columns), (n_columns,). "
            "Was the bundle trained on a model of another width?"
        )
    return torch.addmm(bias, activations.to(torch.float32), weights)
