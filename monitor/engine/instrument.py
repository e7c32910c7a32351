"""Put taps and operators into a loaded model.

Only the module instances are wrapped, before the first forward pass, so that torch.compile traces the
wrappers like any other code. The buffers are allocated once and keep their addresses.

Runs in: vLLM worker, once, after the model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from monitor.engine.steer import SteeringTable
from monitor.errors import EngineSetupError
from probes.bundle import Bundle

_Forward = Callable[..., Any]


@dataclass(frozen=True)
class Instrumentation:
    """The persistent buffers of an instrumented model.

    Attributes:
        probes: probe names, the order of the columns.
        scores: ``(max_tokens, n_columns)`` fp32 on the model's device; NaN until a tap writes.
        steering: the steering table.
        layers: tapped layers.
    """

    probes: tuple[str, ...]
    scores: Tensor
    steering: SteeringTable
    layers: tuple[int, ...]

    def poison(self, n_tokens: int) -> None:
        """Make the rows of the coming step NaN, so that a tap that does not run is seen."""
        self.scores[:n_tokens] = torch.nan


def instrument(model: nn.Module, bundle: Bundle, max_tokens: int) -> Instrumentation:
    """Wrap the decoder layers that the bundle reads and the writes that it may steer.

    Args:
        model: the loaded causal language model (``runner.get_model()``).
        bundle: probes and directions for exactly this model.
        max_tokens: most tokens in one step.

    Raises:
        EngineSetupError: the layers are not where they are expected.
    """
    decoder, layers = find_decoder(model, bundle.manifest.model.n_layers)
    device = next(model.parameters()).device
    columns = sorted(bundle.manifest.probes, key=lambda p: p.layer)
    scores = torch.full((max_tokens, len(columns)), torch.nan, dtype=torch.float32, device=device)
    steering = SteeringTable(bundle, max_tokens, device)

    for index, layer in enumerate(layers):
        names = [p.name for p in columns if p.layer == index]
        first = next((i for i, p in enumerate(columns) if p.layer == index), 0)
        _wrap_layer(layer, _tap_for(bundle, names, first, scores), steering.adder(index))
        if ablate := steering.ablater():
            _wrap_write(layer.self_attn, ablate)
            _wrap_write(layer.mlp, ablate)
    if ablate := steering.ablater():
        _wrap_write(decoder.embed_tokens, ablate)
    return Instrumentation(
        probes=tuple(p.name for p in columns),
        scores=scores,
        steering=steering,
        layers=tuple(sorted({p.layer for p in columns})),
    )


def find_decoder(model: nn.Module, n_layers: int) -> tuple[Any, list[Any]]:
    """The decoder module and its layers.

    Raises:
        EngineSetupError: no ``model.layers`` of the expected length with ``self_attn`` and ``mlp``.
    """
    decoder = getattr(model, "model", None)
    layers = list(getattr(decoder, "layers", None) or [])
    complete = all(hasattr(layer, "self_attn") and hasattr(layer, "mlp") for layer in layers)
    if len(layers) != n_layers or not complete or not hasattr(decoder, "embed_tokens"):
        raise EngineSetupError(
            f"{type(model).__name__} has {len(layers)} layers under model.layers, the bundle's model has {n_layers}; "
            "wanted embed_tokens, and self_attn and mlp in each layer"
        )
    return decoder, layers


def _tap_for(bundle: Bundle, names: list[str], column: int, scores: Tensor) -> Callable[[Tensor, Tensor], None] | None:
    """The tap of one layer, or None if no probe reads it."""
    if not names:
        return None
    device = scores.device
    weights = torch.stack([torch.from_numpy(bundle.probe_weights(n).copy()) for n in names], dim=1).to(device)
    biases = [p.bias for n in names for p in bundle.manifest.probes if p.name == n]
    bias = torch.tensor(biases, dtype=torch.float32, device=device)

    def tap(hidden: Tensor, residual: Tensor) -> None:
        torch.ops.vllm.plumbline_tap(hidden, residual, weights, bias, scores, column)

    return tap


def _wrap_layer(layer: Any, tap: Callable[[Tensor, Tensor], None] | None, add: Callable[[Tensor], None] | None) -> None:
    """Read the block's output, then steer it (on the residual half of the split stream)."""
    if tap is None and add is None:
        return
    original: _Forward = layer.forward

    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        hidden, residual = original(*args, **kwargs)
        if tap is not None:
            tap(hidden, residual)
        if add is not None:
            add(residual)
        return hidden, residual

    layer.forward = forward


def _wrap_write(module: Any, ablate: Callable[[Tensor], None]) -> None:
    """Project what this module is about to write onto the stream."""
    original: _Forward = module.forward

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        write: Tensor = original(*args, **kwargs)
        ablate(write)
        return write

    module.forward = forward
