"""What plugins that read activations do today: eager mode and forward hooks. Here only to be compared with.

Each hooked layer copies the residual stream of every step to the host and scores it there, as the libraries that hand
out hidden states must; nothing is folded, decided or sent. The engine runs with ``enforce_eager``, because a compiled
graph does not call hooks.

Runs in: vLLM worker, mixed into its class (``worker_extension_cls``).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

EXTENSION = "benchmarks.eager_hooks.EagerHooks"
_KEPT_STEPS = 64


class EagerHooks:
    """Adds :meth:`install_eager_hooks` to the worker; called through ``llm.collective_rpc``."""

    model_runner: Any

    def install_eager_hooks(self, layers: list[list[int]]) -> int:
        """Hook layers; ``layers`` is ``[[index, probes], ...]``. Returns how many hooks stand."""
        decoder = self.model_runner.get_model().model
        for index, n_probes in layers:
            generator = torch.Generator().manual_seed(index)
            weights = torch.randn(decoder.config.hidden_size, n_probes, generator=generator)
            decoder.layers[index].register_forward_hook(_Reader(weights))
        return len(layers)

    def eager_steps(self) -> list[int]:
        """How many steps each hook has kept: 0 says that the engine does not call it."""
        hooks = (h for layer in self.model_runner.get_model().model.layers for h in layer._forward_hooks.values())  # noqa: SLF001  # torch has no public way to list hooks
        return [len(hook.kept) for hook in hooks]


class _Reader:
    """A forward hook that keeps hidden states and scores of the newest steps on the host."""

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights
        self.kept: deque[tuple[Tensor, Tensor]] = deque(maxlen=_KEPT_STEPS)

    def __call__(self, _module: object, _args: object, output: tuple[Tensor, Tensor]) -> None:
        hidden, residual = output
        stream = (hidden + residual).to("cpu", copy=True)
        self.kept.append((stream, stream.to(torch.float32) @ self._weights))
