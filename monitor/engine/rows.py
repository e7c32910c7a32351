"""Whose token is in which row: the one place that reads the V1 runner's batch.

Runs in: vLLM worker, on the host, between the scheduler's output and the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RequestRows:
    """One request's rows in the coming step.

    Attributes:
        request_id: vLLM's internal id.
        start: first row. stop: row after the last.
        position: absolute position of the first row's token.
        index: the request's row in the persistent batch (its block table).
    """

    request_id: str
    start: int
    stop: int
    position: int
    index: int


@dataclass(frozen=True)
class StepRows:
    """All rows of one step, without padding."""

    requests: tuple[RequestRows, ...]
    n_tokens: int


class V1Rows:
    """Reads a V1 ``GPUModelRunner`` (which the CPU runner extends)."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def step(self) -> StepRows:
        """The rows that the coming forward pass will compute; after ``_prepare_inputs``."""
        batch = self._runner.input_batch
        n = batch.num_reqs
        starts = self._runner.query_start_loc.np[: n + 1].tolist()
        positions = batch.num_computed_tokens_cpu[:n].tolist()
        requests = tuple(
            RequestRows(request_id, starts[i], starts[i + 1], positions[i], i)
            for i, request_id in enumerate(batch.req_ids[:n])
        )
        return StepRows(requests, starts[n])

    def prompt(self, request_id: str) -> list[int]:
        """Token ids of the prompt (template included)."""
        ids: list[int] = self._runner.requests[request_id].prompt_token_ids
        return ids

    def extra_args(self, request_id: str) -> dict[str, Any]:
        """What the caller put under ``vllm_xargs``."""
        params = self._runner.requests[request_id].sampling_params
        return (params.extra_args if params is not None else None) or {}

    def kv_slots(self, index: int, start: int, stop: int) -> NDArray[np.int64]:
        """KV slots of positions ``[start, stop)`` of the request in this row of the batch."""
        table = self._runner.input_batch.block_table[0]
        positions = np.arange(start, stop)
        blocks = table.block_table.np[index, positions // table.block_size].astype(np.int64)
        slots: NDArray[np.int64] = blocks * table.block_size + positions % table.block_size
        return slots
