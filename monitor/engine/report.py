"""What a step has to tell the monitor, as columns over its requests.

Runs in: vLLM worker, on the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monitor.engine.gate import Gate
from monitor.engine.request import FollowedRequest

Ints = NDArray[np.int64]
Columns = tuple[tuple[bytes, ...], tuple[bytes, ...], bytes, bytes, bytes]


def step_columns(
    requests: Sequence[FollowedRequest], gate: Gate, slots: Ints, first: Ints, sizes: Ints, scores: bytes
) -> Columns:
    """The state of ``requests`` now: the fields of :class:`monitor.frames.StepFrame` after epoch and number.

    Args:
        requests: those of which the step has something to tell. gate: with their state.
        slots: ``(n,)``, theirs. first: ``(n,)``, position of each one's first new score.
        sizes: ``(n,)``, bytes of its scores. scores: ``(all tokens, n_columns)`` fp32, request after request.
    """
    numbers = np.empty((4, len(slots)), dtype=np.int64)
    numbers[0], numbers[1], numbers[2], numbers[3] = first, sizes, gate.position[slots], gate.scored[slots]
    heads, tails = tuple([r.head for r in requests]), tuple([r.tail for r in requests])
    return heads, tails, numbers.tobytes(), gate.folded[slots].tobytes(), scores
