"""Prove at start-up that the taps run in the very graph that will serve.

Runs in: vLLM worker, once, after warm-up.
"""

from __future__ import annotations

from typing import Any

import torch

from monitor.engine.instrument import Instrumentation
from monitor.errors import EngineSetupError

_TOKENS = 4
_UNTOUCHED = -(2.0**100)


def self_test(runner: Any, taps: Instrumentation) -> str:
    """Run a dummy forward pass over marked rows and see that every tap of this rank wrote.

    Raises:
        EngineSetupError: a column is untouched; the engine must not start.
    """
    rows = taps.scores[:_TOKENS]
    rows.fill_(_UNTOUCHED)
    runner._dummy_run(_TOKENS)  # without attention metadata the values mean nothing, and may be NaN
    silent = [i for i in (rows == _UNTOUCHED).any(0).nonzero().flatten().tolist() if i in taps.own]
    rows.fill_(torch.nan)
    if silent:
        names = ", ".join(taps.probes[i] for i in silent)
        raise EngineSetupError(
            f"self-test: the taps of {names} did not run. A graph compiled without them may have been loaded: "
            "clear vLLM's compile cache (~/.cache/vllm/torch_compile_cache) or start with --enforce-eager"
        )
    return f"{len(taps.own)} columns on layers {', '.join(map(str, taps.layers))} alive"
