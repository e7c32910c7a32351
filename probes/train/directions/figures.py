"""Shares, means and perplexities of examples, with their 95 % intervals."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from probes.cards import Estimate
from probes.train.evaluation.intervals import bootstrap, share_estimate


def share(hits: Tensor) -> Estimate:
    """Share of ``(n,)`` that is not 0, with its exact interval."""
    return share_estimate(int(hits.count_nonzero()), len(hits))


def mean(values: Tensor, seed: int) -> Estimate:
    """Mean of ``(n,)`` over examples, with its bootstrap interval."""
    array = values.double().numpy()
    return bootstrap(lambda drawn: drawn @ array / len(array), np.zeros(len(array), dtype=np.int64), seed)


def perplexity(log_likelihoods: Tensor, counts: Tensor, seed: int) -> Estimate:
    """``exp`` of the mean negative log-likelihood of a token, with its bootstrap interval; texts are drawn whole.

    Args:
        log_likelihoods: ``(n,)``, summed over each text's tokens, in nats.
        counts: ``(n,)``, how many tokens.
        seed: of the bootstrap.
    """
    totals, tokens = log_likelihoods.double().numpy(), counts.double().numpy()
    return bootstrap(
        lambda drawn: np.exp(-(drawn @ totals) / (drawn @ tokens)), np.zeros(len(totals), dtype=np.int64), seed
    )
