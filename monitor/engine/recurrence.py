"""Every fold of :mod:`probes.fold`, for one token, as one recurrence.

What a fold of several tokens needs (scans, windows) costs some hundred microseconds a probe, too much for a
decode step. For a single token all folds are the same formula with other constants, so that a decode step is
a few numpy calls over all requests and probes at once. With s the token's score and q its query:

    l' = log(exp(l + decay) + exp(a))      a is the log of the token's weight, l that of all before it
    w  = exp(a - l')                       the token's share: 1 on a fresh row, where l = -inf
    m' = max(floor, (1 - w) m + w x)
    folded' = max(folded, m') for a fold that keeps its highest value, else m'

    kind               x                      a                 decay            floor   keeps highest
    last               s                      0                 -inf: w = 1
    mean               s                      0                 0: w = 1 / n
    max                s                      0                 -inf                     yes
    ema_max            s                      log alpha         log(1 - alpha)           yes; then l' = 0
    rolling_mean_max   mean of the window     0                 -inf                     yes
    softmax            s                      s / temperature   0
    attention          s                      q                 0
    cusum              m + s - drift          0                 -inf             0       yes

Runs in: vLLM worker, on the host, after the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from probes.types import FoldKind, FoldSpec

COUNT, FOLDED, MEAN, LOG_WEIGHT = range(4)  # scored tokens, then the folded score, m and l of the formula
FRESH = np.array([0.0, -math.inf, 0.0, -math.inf])


class Recurrence:
    """The formula with the constants of these probes, one column each.

    States are ``(4, n, n_probes)`` fp64, planes as numbered above; everything else is ``(n, n_probes)`` fp64.
    """

    def __init__(self, specs: Sequence[FoldSpec]) -> None:
        table = np.array([_terms(spec) for spec in specs], dtype=np.float64).reshape(-1, len(_Terms._fields)).T
        self._own, self._per_logit, self._decay, self._least, self._carry, self._drift, self._floor, self._best = table

    def targets(self, before: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The x of every fold; of a rolling fold the score, which the caller replaces by the window's mean."""
        targets: NDArray[np.float64] = scores + (self._carry * before[MEAN] - self._drift)
        return targets

    def log_weights(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The a of every fold; of attention 0, which the caller replaces by the query."""
        return self._own + self._per_logit * scores

    def step(
        self, before: NDArray[np.float64], targets: NDArray[np.float64], log_weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The state after one token, a new array."""
        after = np.empty_like(before)
        total = np.logaddexp(before[LOG_WEIGHT] + self._decay, log_weights)
        share = np.exp(log_weights - total)
        np.add(before[COUNT], 1.0, out=after[COUNT])
        np.maximum(self._floor, (1.0 - share) * before[MEAN] + share * targets, out=after[MEAN])
        np.maximum(before[FOLDED] + self._best, after[MEAN], out=after[FOLDED])
        np.maximum(self._least, total, out=after[LOG_WEIGHT])
        return after


class _Terms(NamedTuple):
    """The constants of one probe's recurrence (see the module docstring); the defaults are those of ``last``.

    Attributes:
        own: the part of a that no token changes. per_logit: a's growth with the score.
        decay: as above. least: the lowest l after a token.
        carry: the part of m in x. drift: taken off x. floor: as above.
        best: 0 if the fold keeps its highest value, else -inf; added to ``folded`` before the maximum.
    """

    own: float = 0.0
    per_logit: float = 0.0
    decay: float = -math.inf
    least: float = -math.inf
    carry: float = 0.0
    drift: float = 0.0
    floor: float = -math.inf
    best: float = -math.inf


def _terms(spec: FoldSpec) -> _Terms:
    match spec.kind:
        case FoldKind.LAST:
            return _Terms()
        case FoldKind.MEAN | FoldKind.ATTENTION:
            return _Terms(decay=0.0)
        case FoldKind.MAX | FoldKind.ROLLING_MEAN_MAX:
            return _Terms(best=0.0)
        case FoldKind.EMA_MAX:
            decay = math.log1p(-spec.alpha) if spec.alpha < 1 else -math.inf
            return _Terms(own=math.log(spec.alpha), decay=decay, least=0.0, best=0.0)
        case FoldKind.SOFTMAX:
            return _Terms(per_logit=1 / spec.temperature, decay=0.0)
        case FoldKind.CUSUM:
            return _Terms(carry=1.0, drift=spec.drift, floor=0.0, best=0.0)
