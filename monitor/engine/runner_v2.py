"""Where the plugin enters the V2 model runner (which the CPU's V2 runner extends).

Runs in: vLLM worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monitor.engine.runner import patch_runner


def patch_runner_v2() -> None:
    """Install the hooks."""
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    patch_runner(GPUModelRunner, "prepare_inputs", _order)


def _order(_: Any, batch: Any) -> Sequence[str]:
    order: list[str] = batch.req_ids
    return order
