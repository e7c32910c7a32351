"""Ways to run a model differently, as data: a name for people, and the context that makes it so for one sequence.

A :class:`Steering` is opened anew for every batch, because where a prompt ends differs from row to row. With
h an activation at ``layer``, v a unit vector and m its magnitude:

    ablate        w <- w - s (w · v) v                           for every write w to the stream
    add           h <- h + s m v
    affine        h <- h + s (level m - h · v) v
    conditional   h <- h + sigmoid(sharpness (score - threshold)) s m v

These are the engine's formulas (``affine`` is its ``clamp`` with equal bounds), in transformers and in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from probes.errors import PlumblineError, ShapeError
from probes.linear import score_tokens
from probes.train.model import LoadedModel, ablated, observed

ApplyScope = Literal["all", "prompt"]
Amount = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Steering:
    """One way to run the model.

    Attributes:
        name: such as ``add 1, prompt positions``.
        applied: from the model and ``(n,)`` int64, the column at which each row's prompt ends, to the context
            of one batch: one forward pass, or the passes of one cached generation.
    """

    name: str
    applied: Callable[[LoadedModel, Tensor], AbstractContextManager[None]]


PLAIN = Steering("none", lambda _model, _ends: nullcontext())


@dataclass(frozen=True)
class Gate:
    """When to steer: a probe's token score at the same or an earlier layer.

    Attributes:
        layer: that the probe reads, before anything is added there.
        weights: ``(d_model,)`` fp32. bias: logit.
        threshold: score at which half the strength is reached.
        sharpness: how quickly it sets in, per logit; the larger, the nearer to all or nothing.
    """

    layer: int
    weights: Tensor
    bias: float
    threshold: float
    sharpness: float = 10.0

    def factor(self, stream: Tensor) -> Tensor:
        """``(..., d_model)`` to ``(...)`` fp32 in [0, 1]; 1 where the score is NaN: unscored is never safe.

        Source: the engine's condition, after Lee et al. 2024 (arXiv:2409.05907), with a probe's score in the
        place of a cosine.
        """
        weights, bias = self.weights.to(stream.device)[:, None], torch.tensor([self.bias], device=stream.device)
        score = score_tokens(stream.flatten(0, -2), weights, bias).view(stream.shape[:-1])
        return torch.sigmoid(self.sharpness * (score - self.threshold)).nan_to_num(nan=1.0)


def ablate(unit: Tensor, strength: float = 1.0) -> Steering:
    """Remove ``strength`` times the projection on ``unit``, ``(d_model,)`` fp32, from every write."""
    return Steering(f"ablate {strength:g}", lambda model, _ends: ablated(model, unit, strength))


def add(layer: int, vector: Tensor, strength: float = 1.0, scope: ApplyScope = "all") -> Steering:
    """Add ``strength`` times ``vector``, ``(d_model,)`` fp32 with its magnitude, to the output of ``layer``."""

    def amount(stream: Tensor) -> Tensor:
        return stream.new_full(stream.shape[:-1], strength)

    return Steering(
        f"add {strength:g}, {scope} positions",
        lambda model, ends: moved(model, layer, vector, amount, ends if scope == "prompt" else None),
    )


def affine(layer: int, unit: Tensor, target: float, strength: float = 1.0, scope: ApplyScope = "all") -> Steering:
    """Move the projection on ``unit``, ``(d_model,)`` fp32, to ``target`` by ``strength`` of the way."""

    def amount(stream: Tensor) -> Tensor:
        return strength * (target - stream @ unit.to(stream))

    return Steering(
        f"affine {strength:g}, {scope} positions",
        lambda model, ends: moved(model, layer, unit, amount, ends if scope == "prompt" else None),
    )


def conditional(layer: int, vector: Tensor, gate: Gate, strength: float = 1.0, scope: ApplyScope = "all") -> Steering:
    """Add ``strength`` times ``vector`` where the gate opens, each token by its own score.

    Raises:
        PlumblineError: when opened, if the gate reads a later layer than it steers.
    """

    @contextmanager
    def applied(model: LoadedModel, ends: Tensor) -> Iterator[None]:
        if gate.layer > layer:
            raise PlumblineError(
                f"the condition reads layer {gate.layer}, which runs after layer {layer} that it steers; wanted a "
                f"probe at layer {layer} or before."
            )
        scored: dict[int, Tensor] = {}
        only = ends if scope == "prompt" else None
        with (
            observed(model, [gate.layer], scored.__setitem__),
            moved(model, layer, vector, lambda _: strength * gate.factor(scored[gate.layer].float()), only),
        ):
            yield

    return Steering(f"add {strength:g} where the score reaches {gate.threshold:.3g}, {scope} positions", applied)


@contextmanager
def moved(model: LoadedModel, layer: int, vector: Tensor, amount: Amount, ends: Tensor | None = None) -> Iterator[None]:
    """Add ``amount`` times ``vector`` to the output of ``layer``, at every position or in the prompt only.

    Args:
        model: whose layer is changed while the context is open.
        layer: 0-based block.
        vector: ``(d_model,)`` fp32.
        amount: from the activation ``(n, n_tokens, d_model)`` fp32 to ``(n, n_tokens)``.
        ends: ``(n,)`` int64, first column that is not steered; columns are counted over all passes since the
            context was opened, so that cached generation goes on where the prompt ended. None: all are steered.

    Raises:
        ShapeError: the vector has another width than the model.
    """
    if vector.shape != (model.d_model,):
        raise ShapeError(f"vector {tuple(vector.shape)} does not fit the model: wanted ({model.d_model},).")
    vector = vector.to(device=model.device, dtype=torch.float32)
    seen = 0

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        nonlocal seen
        stream = _stream(output)
        coefficient = amount(stream.float())
        if ends is not None:
            columns = seen + torch.arange(stream.shape[1], device=stream.device)
            coefficient = coefficient * (columns < ends.to(stream.device)[:, None])
        seen += stream.shape[1]
        steered = (stream + coefficient[..., None] * vector).to(stream.dtype)
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    handle = model.layers[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _stream(output: Any) -> Tensor:
    """The tensor of a block's output, which older transformers return first in a tuple."""
    stream: Tensor = output[0] if isinstance(output, tuple) else output
    return stream
