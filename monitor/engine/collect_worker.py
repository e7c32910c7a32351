"""A worker that keeps the whole residual stream of chosen layers, for whoever collects activations.

It reads no bundle and steers nothing. After each forward pass it hands out the streams, and which positions of which
sequences their rows are, as the ledger knows it from the scheduler.

Runs in: vLLM worker, which here is in the client's own process.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import vllm
from torch import Tensor, nn
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_worker import Worker

from monitor.engine.compat import check_engine
from monitor.engine.layouts import Block, find_blocks
from monitor.engine.ops import register_ops, whole
from monitor.engine.runner_v1 import patch_runner_v1
from monitor.engine.runner_v2 import patch_runner_v2
from probes.activations.shards import Piece

if TYPE_CHECKING:  # it brings numba, which must not be there yet (see worker.py)
    from monitor.engine.ledger import Ledger, StepRows

LAYERS = "plumbline_collect"
"""Where the engine's ``additional_config`` names the layers; vLLM hashes it into the key of a compiled graph."""
SEQUENCE = "plumbline_sequence"
"""Where a request's ``extra_args`` say which sequence of the job it is."""

Streams = Mapping[int, Tensor]
"""``(max_tokens, d_model)`` fp32 by layer; rows beyond those of the step mean nothing."""
Take = Callable[[Sequence[Piece], Streams], None]


class CollectHooks:
    """What a runner calls around a forward pass (:mod:`monitor.engine.runner`).

    Attributes:
        take: given the streams after each forward pass; nothing is taken before it is set.
        received: as a runner expects it; there are no earlier pipeline stages.
    """

    received: Tensor | None = None

    def __init__(self, streams: Streams, ledger: Ledger) -> None:
        self._streams, self._ledger = streams, ledger
        self._sequences: dict[int, int] = {}
        self._rows: StepRows | None = None
        self.take: Take | None = None

    def schedule(self, output: Any) -> None:
        """Take in a ``SchedulerOutput``."""
        for request_id in output.finished_req_ids:
            if (slot := self._ledger.close(request_id)) is not None:
                self._ledger.release(slot)
        for new in self._ledger.schedule(output):
            self._sequences[new.slot] = new.extra_args[SEQUENCE]

    def before_forward(self, order: Sequence[str]) -> None:
        """Poison the rows of the coming step, so that a tap that does not run is seen."""
        self._rows = self._ledger.rows(order)
        for stream in self._streams.values():
            stream[: self._rows.n_tokens] = torch.nan

    def after_forward(self) -> None:
        """Hand out the step's rows."""
        rows, self._rows = self._rows, None
        if rows is None or self.take is None:
            return
        starts, positions = rows.starts.tolist(), rows.positions.tolist()
        pieces = [
            (self._sequences[slot], position, position + end - start, start)
            for slot, position, start, end in zip(rows.slots.tolist(), positions, starts, starts[1:], strict=False)
        ]
        self.take(pieces, self._streams)


class _Collecting(Worker):
    """What the workers of both platforms add to vLLM's own."""

    model_runner: Any
    _streams: Streams

    def load_model(self, **options: Any) -> None:
        """Load the model, then tap the layers that are collected.

        Raises:
            EngineSetupError: this engine cannot give exact activations.
        """
        config: Any = self.vllm_config
        check_engine(vllm.__version__, config, allow_untested=os.environ.get("PLUMBLINE_ALLOW_UNTESTED") == "1")
        super().load_model(**options)
        _patch_runners()
        n_layers = config.model_config.get_total_num_hidden_layers()
        max_tokens = max(
            config.scheduler_config.max_num_batched_tokens, getattr(self.model_runner, "max_num_tokens", 0)
        )
        shape = (max_tokens, config.model_config.get_hidden_size())
        self._streams = tap_streams(self.model_runner.get_model(), config.additional_config[LAYERS], n_layers, shape)

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        """Make the KV cache, then the hooks, now that its blocks are known."""
        from monitor.engine.ledger import Ledger  # noqa: PLC0415  # brings numba: vLLM's CPU platform must have started

        super().initialize_from_config(kv_cache_config)
        config = self.vllm_config
        block_size = kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
        max_blocks = -(-config.model_config.max_model_len // block_size) + 1
        ledger = Ledger(config.scheduler_config.max_num_seqs, max_blocks, block_size)
        self.model_runner.plumbline = CollectHooks(self._streams, ledger)

    def collect_into(self, take: Take | None) -> None:
        """Hand out the streams of every following step."""
        self.model_runner.plumbline.take = take


class CollectingCPUWorker(_Collecting, CPUWorker):
    """For ``worker_cls`` on a CPU."""


class CollectingGPUWorker(_Collecting):
    """For ``worker_cls`` on a GPU."""


def tap_streams(model: nn.Module, layers: Sequence[int], n_layers: int, shape: tuple[int, int]) -> Streams:
    """Store the output of these layers on every forward pass.

    Args:
        model: the loaded causal language model.
        layers: 0-based blocks. n_layers: of the whole model.
        shape: most tokens in one step, and ``d_model``.

    Raises:
        EngineSetupError: where the stream runs in this model is not known.
    """
    register_ops()
    device = next(model.parameters()).device
    streams = {}
    for block in find_blocks(model, n_layers):
        if block.layer in layers:
            streams[block.layer] = torch.full(shape, torch.nan, dtype=torch.float32, device=device)
            _tap(block, streams[block.layer])
    return streams


def _tap(block: Block, stream: Tensor) -> None:
    original = block.module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        torch.ops.vllm.plumbline_store(whole(*block.leaving(output)), stream, 0)
        return output

    block.module.forward = forward


@functools.cache
def _patch_runners() -> None:
    """Once in a process."""
    patch_runner_v1()
    patch_runner_v2()
