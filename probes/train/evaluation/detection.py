"""How many response tokens pass before a positive trips."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from probes.cards import DetectionTime
from probes.fold import fold_sequence
from probes.train.encode import Encoded
from probes.train.evaluation.inputs import Scored
from probes.types import FoldSpec, Probe, Scope


def first_trip(fold: FoldSpec, scores: Tensor, queries: Tensor | None, threshold: float) -> int | None:
    """Index of the first token after which the folded score reaches ``threshold``, or None.

    Args:
        fold: of the probe.
        scores: ``(n_tokens,)``, one example's tokens in scope. queries: the same for ``attention``, else None.
        threshold: of the folded score; NaN never reaches it.
    """
    reached = (fold_sequence(fold, scores, queries) >= threshold).nonzero()
    return int(reached[0, 0]) if len(reached) else None


def detection_time(probe: Probe, scored: Scored) -> DetectionTime | None:
    """Tokens until the trip, over the positives, at the first threshold.

    1 is the response's first token, 0 a trip in the prompt already (of a probe that reads both).

    Returns:
        None for a probe of the prompt: it is decided at the prompt's end.
    """
    if probe.scope.phase == "prompt":
        return None
    threshold = probe.thresholds[0].value
    tokens, n_missed = [], 0
    for i in np.flatnonzero(scored.labels == 1).tolist():
        trip = first_trip(probe.fold, *tokens_of(scored, i), threshold)
        if trip is None:
            n_missed += 1
        else:
            tokens.append(max(0, scored.encoded[i].start + trip + 1 - _response_start(probe, scored.encoded[i])))
    p10, p50, p90 = np.quantile(tokens, [0.1, 0.5, 0.9]).tolist() if tokens else (None, None, None)
    return DetectionTime(n_tripped=len(tokens), n_missed=n_missed, p10=p10, p50=p50, p90=p90)


def tokens_of(scored: Scored, i: int) -> tuple[Tensor, Tensor | None]:
    """Token scores of one example, ``(n_tokens,)``, and its queries if the fold has them."""
    own = slice(int(scored.offsets[i]), int(scored.offsets[i + 1]))
    return scored.token_scores[own], None if scored.token_queries is None else scored.token_queries[own]


def _response_start(probe: Probe, encoded: Encoded) -> int:
    return encoded.start if probe.scope is Scope.RESPONSE else encoded.n_prompt
