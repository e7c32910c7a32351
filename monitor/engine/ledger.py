"""Whose token is in which row: kept from what the scheduler says, so that it holds for every model runner.

The scheduler's output of a step names the requests, their positions and their KV blocks; all that a runner adds is the
order in which it lines the requests up. Nothing is read from a runner's own state, which differs between versions, is
ahead of the step under asynchronous scheduling, and calls a resumed request new (V2).

Runs in: vLLM worker, on the host, between the scheduler's output and the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.engine.row_kernel import UNKNOWN, line_up

Ints = NDArray[np.int64]
_NO_TOKENS: Ints = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class NewRequest:
    """What the scheduler says of a request when it first runs.

    Attributes:
        slot: its request slot. prompt: token ids, template included. extra_args: the caller's ``vllm_xargs``.
        unscored: why no probe of the bundle may judge it (it runs with an adapter), or None.
    """

    request_id: str
    slot: int
    prompt: Sequence[int]
    extra_args: dict[str, Any]
    unscored: str | None


class StepRows(NamedTuple):
    """The rows of one step, without padding.

    Attributes:
        slots: ``(n,)`` request slots in the order of the batch.
        starts: ``(n + 1,)`` first row of each request, and the number of rows.
        positions: ``(n,)`` absolute position of each request's first row.
        row_positions: ``(n_tokens,)``. row_slots: ``(n_tokens,)``, the request slot of each row.
        kv_slots: ``(n_tokens,)`` KV slots that the step fills.
        tokens: ``(n_tokens,)`` token ids, -1 where only the device knows them.
        copies: KV blocks ``(source, target)`` that are copied before it.
    """

    slots: Ints
    starts: Ints
    positions: Ints
    row_positions: Ints
    row_slots: Ints
    kv_slots: Ints
    tokens: Ints
    copies: tuple[tuple[int, int], ...]

    @property
    def n_tokens(self) -> int:
        """Rows."""
        return len(self.row_slots)


class Ledger:
    """Request slots, positions and KV blocks of every request that the engine knows.

    Args:
        capacity: requests that are expected to be open at once (preempted ones stay open; it grows).
        max_blocks: KV blocks of the longest request. block_size: tokens in a block.
        group: index of the KV cache group whose blocks are followed.
    """

    def __init__(self, capacity: int, max_blocks: int, block_size: int, group: int = 0) -> None:
        self._block_size, self._group = block_size, group
        self._slot_of: dict[str, int] = {}
        self._free = list(range(capacity - 1, -1, -1))
        self._blocks = np.zeros((capacity, max_blocks), dtype=np.int64)
        self._n_blocks = [0] * capacity
        self._position = np.zeros(capacity, dtype=np.int64)
        self._n_prompt = np.zeros(capacity, dtype=np.int64)
        self._prompts: list[Ints] = [_NO_TOKENS] * capacity
        self.scheduled = np.zeros(capacity, dtype=np.int64)
        self._counts: dict[str, int] = {}
        self._copies: tuple[tuple[int, int], ...] = ()
        self.rows(())  # compile now, not in a step

    @property
    def capacity(self) -> int:
        """Request slots."""
        return len(self._n_blocks)

    def close(self, request_id: str) -> int | None:
        """Forget a request that ended; returns its slot, which stays taken until it is released."""
        return self._slot_of.pop(request_id, None)

    def release(self, slot: int) -> None:
        """Nobody refers to this slot any more."""
        self._prompts[slot] = _NO_TOKENS
        self._free.append(slot)

    def schedule(self, output: Any) -> list[NewRequest]:
        """Take in a step's ``SchedulerOutput``; returns the requests that were not known before."""
        opened = [new for request in output.scheduled_new_reqs if (new := self._take_new(request)) is not None]
        cached = output.scheduled_cached_reqs
        resumed = cached.resumed_req_ids
        for request_id, blocks, position in zip(
            cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True
        ):
            slot = self._slot_of[request_id]
            self._position[slot] = position
            if blocks is not None:
                self._add_blocks(slot, blocks[self._group], anew=request_id in resumed)
        self._counts = output.num_scheduled_tokens
        self._copies = tuple((int(c[0]), int(c[1])) for c in getattr(output, "kv_cache_block_copies", None) or ())
        return opened

    def rows(self, order: Sequence[str]) -> StepRows:
        """The rows of the scheduled step, with the requests in the runner's order."""
        n = len(order)
        slots = np.fromiter(map(self._slot_of.__getitem__, order), np.int64, n)
        counts = np.fromiter(map(self._counts.__getitem__, order), np.int64, n)
        in_prompt, starts, positions, row_positions, row_slots, kv_slots, tokens = line_up(
            slots, counts, self._position, self._n_prompt, self.scheduled, self._blocks, self._block_size
        )
        rows = StepRows(slots, starts, positions, row_positions, row_slots, kv_slots, tokens, self._copies)
        if in_prompt:
            self._fill_tokens(rows)
        return rows

    def kv_slots(self, slots: Ints | int, positions: Ints) -> Ints:
        """KV slots of ``positions`` of the requests in ``slots``."""
        block, offset = np.divmod(positions, self._block_size)
        found: Ints = self._blocks[slots, block] * self._block_size + offset
        return found

    def prompt(self, slot: int, start: int, stop: int) -> Ints:
        """Token ids of positions ``[start, stop)``, -1 after the prompt's end."""
        known = self._prompts[slot][start:stop]
        return np.concatenate([known, np.full(stop - start - len(known), UNKNOWN, dtype=np.int64)])

    def _fill_tokens(self, rows: StepRows) -> None:
        """Write the token ids of those rows that belong to a prompt."""
        starts, positions = rows.starts.tolist(), rows.positions.tolist()
        for i, slot in enumerate(rows.slots.tolist()):
            if positions[i] < self._n_prompt[slot]:
                begin, count = positions[i], starts[i + 1] - starts[i]
                rows.tokens[starts[i] : starts[i + 1]] = self.prompt(slot, begin, begin + count)

    def _take_new(self, request: Any) -> NewRequest | None:
        """Open a request; None if it is open already: V2 calls a resumed request new."""
        slot = self._slot_of.get(request.req_id)
        known = slot is not None
        if slot is None:
            slot = self._slot_of[request.req_id] = self._free.pop() if self._free else self._grow()
        self._position[slot] = request.num_computed_tokens
        self._add_blocks(slot, request.block_ids[self._group], anew=True)
        if known:
            return None
        prompt = request.prompt_token_ids or ()
        self._prompts[slot], self._n_prompt[slot] = np.array(prompt, dtype=np.int64), len(prompt)
        params = request.sampling_params
        return NewRequest(
            request_id=request.req_id,
            slot=slot,
            prompt=prompt,
            extra_args=(params.extra_args if params is not None else None) or {},
            unscored="adapter" if request.lora_request is not None else None,
        )

    def _add_blocks(self, slot: int, blocks: Sequence[int], *, anew: bool) -> None:
        begin = 0 if anew else self._n_blocks[slot]
        end = self._n_blocks[slot] = begin + len(blocks)
        if end > self._blocks.shape[1]:
            self._blocks = np.pad(self._blocks, ((0, 0), (0, end)))
        self._blocks[slot, begin:end] = blocks

    def _grow(self) -> int:
        """Twice the room."""
        n = self.capacity
        self._blocks, self._position, self._n_prompt, self.scheduled = (
            np.concatenate([a, np.zeros_like(a)])
            for a in (self._blocks, self._position, self._n_prompt, self.scheduled)
        )
        self._n_blocks += [0] * n
        self._prompts += [_NO_TOKENS] * n
        self._free = list(range(2 * n - 1, n - 1, -1))
        return self._free.pop()
