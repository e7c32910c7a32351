"""From interleaved runs to a figure that a noisy machine does not spoil.

A **pair** is two runs of each side over the same prompts, interleaved so that a drift of the machine hits both sides
alike (:mod:`benchmarks.compare`). Its figures are ratios of sums over the two runs of a side, minus one; a row is the
median over the pairs. A bootstrap over the pairs says when there are enough of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

METRICS = ("overhead", "itl_p50", "itl_p99", "ttft")
_RESAMPLES = 2000


@dataclass(frozen=True)
class Served:
    """One batch as the client saw it; the clock stands still while it is the other engine's turn.

    Attributes:
        seconds: from the first submission to the last token. tokens: generated.
        ttft: seconds from a request's submission to its first token, for each request.
        gaps: seconds between tokens of one request, of all requests.
        idle_cores: CPU cores that this engine used while it was the other one's turn; 0 without turns.
    """

    seconds: float
    tokens: int
    ttft: tuple[float, ...]
    gaps: tuple[float, ...]
    idle_cores: float = 0.0


def figures(runs: Sequence[Served]) -> dict[str, float]:
    """One side of a pair, in seconds: ``overhead`` is the time of a token, the others are what their names say."""
    gaps = [gap for run in runs for gap in run.gaps]
    return {
        "overhead": sum(run.seconds for run in runs) / sum(run.tokens for run in runs),
        "itl_p50": float(np.percentile(gaps, 50)),
        "itl_p99": float(np.percentile(gaps, 99)),
        "ttft": float(np.mean([t for run in runs for t in run.ttft])),
    }


def ratios(plain: Sequence[Served], ours: Sequence[Served]) -> dict[str, float]:
    """``ours / plain - 1`` of one pair, by metric; ``overhead`` is plain tokens/s over ours, minus one.

    Raises:
        ValueError: the sides generated different numbers of tokens, so their times cannot be compared.
    """
    n_plain, n_ours = sum(run.tokens for run in plain), sum(run.tokens for run in ours)
    if n_plain != n_ours:
        raise ValueError(f"the plain side of a pair has {n_plain} tokens, the other {n_ours}; wanted the same requests")
    theirs, mine = figures(plain), figures(ours)
    return {name: mine[name] / theirs[name] - 1 for name in METRICS}


def median_width(values: Sequence[float], seed: int = 0) -> float:
    """Width of the 95 % bootstrap interval of the median; infinite for fewer than three values.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife" (percentile interval).
    """
    if len(values) < 3:
        return float("inf")
    rng = np.random.default_rng(seed)
    sample: NDArray[np.float64] = np.asarray(values)[rng.integers(len(values), size=(_RESAMPLES, len(values)))]
    low, high = np.percentile(np.median(sample, axis=1), [2.5, 97.5])
    return float(high - low)


def enough(pairs: Sequence[dict[str, float]], least: int, most: int, width: float) -> bool:
    """Whether to stop: ``most`` pairs, or ``least`` and the medians of throughput and of ``itl_p50`` are narrow."""
    if len(pairs) < least:
        return False
    return len(pairs) >= most or all(
        median_width([pair[name] for pair in pairs]) <= width for name in ("overhead", "itl_p50")
    )
