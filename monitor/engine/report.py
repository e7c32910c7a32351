"""A followed request's part of a frame.

Runs in: vLLM worker, on the host.
"""

from __future__ import annotations

from collections.abc import Sequence

from monitor.engine.request import Detector, FollowedRequest
from monitor.frames import DetectorState, RequestScores


def report(
    request: FollowedRequest, folded: Sequence[float], seen: int, scored: int, first: int, scores: bytes,
    *, ended: bool = False,
) -> RequestScores:  # fmt: skip
    """What is known about ``request`` now.

    Args:
        request: with its rules. folded: newest folded score of each probe; NaN: unscored.
        seen: positions processed. scored: of those, how many have a score.
        first: position of the first row of ``scores``. scores: ``(n_tokens, n_columns)`` fp32, row-major bytes.
        ended: the engine is done with it.
    """
    return RequestScores(
        request_id=request.plan.request_id,
        choice=request.choice,
        plan=request.digest,
        n_prompt=request.n_prompt,
        first=first,
        scores=scores,
        seen=seen,
        scored=scored,
        detectors=tuple([_state(d, folded[d.probe]) for d in request.detectors]),
        stopped=request.stopped,
        ended=ended,
        cache_misses=request.cache_misses,
    )


def _state(detector: Detector, score: float) -> DetectorState:
    known = None if score != score else score  # noqa: PLR0124  # NaN: unscored; faster than math.isnan, and this is hot
    return DetectorState(detector.plan.rule, known, detector.trip_position, detector.trip_score)
