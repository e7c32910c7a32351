"""How far the engine is from transformers, as a share of the bound that counts as equal.

Scores: ``|a - b| <= 1e-3 max(|b|, the column's standard deviation)``. Logits: within 1e-3 of their standard deviation.
1.0 or less is equal. Used by the tests (which assert it) and by the benchmark (which writes it down).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monitor.types import Operator, Steering
from tests.support.tiny import N_WORDS, SPECIAL

ADD = (Steering("refusal", Operator.ADD, 1.0),)
ABLATE = (Steering("refusal", Operator.ABLATE, 1.0),)
STEERINGS: tuple[tuple[Steering, ...], ...] = (
    (),
    ADD,
    ABLATE,
    (Steering("other", Operator.ADD, -0.5), Steering("refusal", Operator.ABLATE, 0.7)),
    (*ABLATE, Steering("other", Operator.ABLATE, 1.0)),
)


def random_prompts(n: int, seed: int, longest: int = 90) -> list[list[int]]:
    """Token ids of prompts of 5 to ``longest`` words."""
    rng = np.random.default_rng(seed)
    return [rng.integers(len(SPECIAL), N_WORDS, size=rng.integers(5, longest)).tolist() for _ in range(n)]


def score_share(got: np.ndarray, wanted: np.ndarray) -> float:
    """Worst score of ``(n_tokens, n_probes)``; infinite if a token is missing."""
    if got.shape != wanted.shape:
        return float("inf")
    bound = 1e-3 * np.maximum(np.abs(wanted), wanted.std(0))
    return float((np.abs(got - wanted) / bound).max())


def logit_share(logprobs: Sequence[Mapping[int, Any]], wanted: Sequence[Tensor] | Tensor) -> float:
    """Worst raw logit over all generated positions; ``logprobs`` as vLLM returns them for the whole vocabulary."""
    shares = []
    for entry, row in zip(logprobs, wanted, strict=True):
        got = torch.tensor([entry[i].logprob for i in range(N_WORDS)])
        shares.append(float((got - row).abs().max() / (1e-3 * row.std())))
    return max(shares)


def measure(engine: Any, reference: Any, prompts: Sequence[Sequence[int]], **params: Any) -> list[tuple[float, float]]:
    """Run prompts under mixed steerings in one batch; each one's worst share for scores and for logits."""
    plans = [engine.plan(steering=STEERINGS[i % len(STEERINGS)]) for i in range(len(prompts))]
    outputs, frames = engine.generate(prompts, plans, logprobs=-1, **params)
    shares = []
    for prompt, plan, output in zip(prompts, plans, outputs, strict=True):
        choice = output.outputs[0]
        ids = (list(prompt) + list(choice.token_ids))[:-1]  # the last sampled token is never fed forward
        scores, logits = reference.run(ids, plan.steering)
        got = frames[plan.request_id, 0].matrix(reference.columns)
        shares.append((score_share(got, scores.numpy()), logit_share(choice.logprobs, logits[len(prompt) - 1 :])))
    return shares
