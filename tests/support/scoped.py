"""Transformers as the truth where steering acts on a part of the request: prompt and response in two forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monitor.types import Steering, SteeringScope
from tests.support.reference import Reference


@torch.no_grad()
def scoped_run(
    reference: Reference, prompt: Sequence[int], response: Sequence[int], steering: Sequence[Steering]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores ``(n_tokens, n_columns)`` in the order of ``reference.columns``, and logits ``(n_tokens, vocab)``.

    The response attends to the keys and values that the prompt left under its own steering.
    """
    cache, scores, logits = None, [], []
    for ids, part in ((prompt, SteeringScope.PROMPT), (response, SteeringScope.RESPONSE)):
        if not ids:
            continue
        acting = [s for s in steering if s.scope in (part, SteeringScope.ALL)]
        streams: dict[int, torch.Tensor] = {}
        handles = [
            layer.register_forward_hook(_reader(streams, index))  # before the steering's hooks: taps read first
            for index, layer in enumerate(reference.blocks)
        ]
        with reference._steered(acting):
            output = reference.model(torch.tensor([list(ids)]), past_key_values=cache, use_cache=True)
        for handle in handles:
            handle.remove()
        cache = output.past_key_values
        columns = [
            streams[layer].double() @ torch.from_numpy(weights.copy()).double() + bias
            for _, layer, weights, bias in reference._columns
        ]
        scores.append(torch.stack(columns, 1).float().numpy())
        logits.append(output.logits[0].numpy())
    return np.concatenate(scores), np.concatenate(logits)


def _reader(streams: dict[int, torch.Tensor], index: int) -> Any:
    def hook(_module: Any, _args: Any, output: Any) -> None:
        streams[index] = (output[0] if isinstance(output, tuple) else output)[0]

    return hook
