"""Where the plugin enters the V1 model runner (which the CPU's V1 runner extends).

Runs in: vLLM worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monitor.engine.runner import patch_runner


def patch_runner_v1() -> None:
    """Install the hooks."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    patch_runner(GPUModelRunner, "_prepare_inputs", _order)


def _order(runner: Any, _: Any) -> Sequence[str]:
    batch = runner.input_batch
    order: list[str] = batch.req_ids[: batch.num_reqs]
    return order
