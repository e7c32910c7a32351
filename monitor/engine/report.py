"""What a step has to tell the monitor, as columns over its requests.

Runs in: vLLM worker, on the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monitor.engine.request import FollowedRequest

Columns = tuple[tuple[bytes, ...], tuple[bytes, ...], bytes, bytes, bytes]


def step_columns(
    requests: Sequence[FollowedRequest], numbers: NDArray[np.int64], folded: NDArray[np.float64], scores: bytes
) -> Columns:
    """The state of ``requests`` now: the fields of :class:`monitor.frames.StepFrame` after epoch and number.

    Args:
        requests: those of which the step has something to tell.
        numbers: ``(n, 4)``, as the frame has them. folded: ``(n, n_probes)``.
        scores: ``(all tokens, n_columns)`` fp32, request after request.
    """
    heads, tails = tuple([r.head for r in requests]), tuple([r.tail for r in requests])
    return heads, tails, numbers.tobytes(), folded.tobytes(), scores
