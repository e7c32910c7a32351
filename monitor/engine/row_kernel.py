"""The arithmetic of a step's rows, in one call: compiled with numba.

After a forward pass nothing of ours is in the CPU's caches, so that a step costs by how many functions it touches, and
a dozen small numpy calls cost more than this one.

Runs in: vLLM worker, on the host.
"""

from __future__ import annotations

import numpy as np
from numba import njit  # type: ignore[import-untyped]  # numba has no type information
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

UNKNOWN = -1
"""Token id of a generated token: which one it is, only the device knows."""


@njit  # type: ignore[untyped-decorator]  # as numba
def line_up(
    slots: Ints, counts: Ints, position: Ints, n_prompt: Ints, scheduled: Ints, blocks: Ints, block_size: int
) -> tuple[bool, Ints, Ints, Ints, Ints, Ints, Ints]:
    """The rows of a step whose requests stand in ``slots`` ``(n,)``, with ``counts`` ``(n,)`` rows each.

    Args:
        position, n_prompt: ``(capacity,)``, first position of the step and prompt tokens, by request slot.
        scheduled: ``(capacity,)``, the first position that no forward pass has begun; changed.
        blocks: ``(capacity, max_blocks)`` KV blocks. block_size: tokens in one.

    Returns:
        Whether a row belongs to a prompt; then as in :class:`monitor.engine.ledger.StepRows`: ``starts``,
        ``positions``, ``row_positions``, ``row_slots``, ``kv_slots``, and ``tokens``, all unknown.

    Raises:
        IndexError: a position beyond ``blocks``.
    """
    n, total, in_prompt = len(slots), counts.sum(), False
    starts, positions = np.empty(n + 1, np.int64), np.empty(n, np.int64)
    row_positions, row_slots, kv_slots = np.empty(total, np.int64), np.empty(total, np.int64), np.empty(total, np.int64)
    row = 0
    for i in range(n):
        slot = slots[i]
        starts[i], positions[i] = row, position[slot]
        in_prompt |= position[slot] < n_prompt[slot]
        scheduled[slot] = position[slot] + counts[i]
        if position[slot] + counts[i] > blocks.shape[1] * block_size:
            raise IndexError("a request has more positions than KV blocks")
        for at in range(position[slot], position[slot] + counts[i]):
            row_positions[row], row_slots[row] = at, slot
            kv_slots[row] = blocks[slot, at // block_size] * block_size + at % block_size
            row += 1
    starts[n] = row
    return in_prompt, starts, positions, row_positions, row_slots, kv_slots, np.full(total, UNKNOWN)


@njit  # type: ignore[untyped-decorator]  # as numba
def tell(
    slots: Ints, before: Ints, followed: NDArray[np.bool_], position: Ints, scored: Ints, folded: Floats, row_bytes: int
) -> tuple[Ints, Ints, Floats]:
    """What a step has to tell of its requests, which stand in ``slots`` ``(n,)``.

    Args:
        before: ``(n,)``, the first position of each that was not folded before the step.
        followed: ``(capacity,)`` bool. position, scored, folded: of the gate. row_bytes: of one token's scores.

    Returns:
        Of the m followed requests with new positions: ``(m,)`` their indices in ``slots``; ``(m, 4)`` first new
        position, bytes of new scores, positions folded and scored so far; ``(m, n_probes)`` newest folded scores.
    """
    n = 0
    which, numbers = np.empty(len(slots), np.int64), np.empty((len(slots), 4), np.int64)
    newest = np.empty((len(slots), folded.shape[1]), np.float64)
    for i in range(len(slots)):
        slot = slots[i]
        if followed[slot] and position[slot] > before[i]:
            which[n], newest[n] = i, folded[slot]
            numbers[n, 0], numbers[n, 1] = before[i], (position[slot] - before[i]) * row_bytes
            numbers[n, 2], numbers[n, 3] = position[slot], scored[slot]
            n += 1
    return which[:n], numbers[:n], newest[:n]
