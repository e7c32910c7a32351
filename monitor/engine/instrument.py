"""Put taps and operators into a loaded model.

Only the module instances are wrapped, before the first forward pass, so that torch.compile traces the
wrappers like any other code. The buffers are allocated once and keep their addresses.

Runs in: vLLM worker, once, after the model is loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monitor.engine import ops
from monitor.engine.layouts import Block, find_blocks, rows, split_write
from monitor.engine.steer import OutputChange, SteeringTable, WriteChange
from monitor.types import Operator
from probes.bundle import Bundle
from probes.linear import score_tokens
from probes.types import FoldKind

_Tap = Callable[[Tensor, Tensor | None], None]


QUERY = ".query"
"""Suffix of an attention probe's second column."""


@dataclass(frozen=True)
class Instrumentation:
    """The persistent buffers of an instrumented model.

    Attributes:
        probes: names of the columns: of probes, and ``<probe>.query`` for the second column of an attention probe.
        scores: ``(max_tokens, n_columns)`` fp32 on the model's device; NaN until a tap writes, and always for
            layers that another pipeline rank holds.
        steering: the steering table.
        layers: layers that this rank taps. own: their columns.
    """

    probes: tuple[str, ...]
    scores: Tensor
    steering: SteeringTable
    layers: tuple[int, ...]
    own: frozenset[int]

    @functools.cached_property
    def on_host(self) -> NDArray[np.float32] | None:
        """``scores`` itself, where the device is the CPU: numpy touches less memory in a step than torch does."""
        return self.scores.numpy() if self.scores.device.type == "cpu" else None

    def poison(self, n_tokens: int) -> None:
        """Make the rows of the coming step NaN, so that a tap that does not run is seen."""
        rows = self.scores if self.on_host is None else self.on_host
        rows[:n_tokens] = np.nan


@dataclass(frozen=True)
class _Column:
    """One column of the scores: ``activation @ weights + bias`` at a layer."""

    name: str
    layer: int
    weights: Tensor
    bias: float


def instrument(
    model: nn.Module,
    bundle: Bundle,
    max_tokens: int,
    operators: Collection[Operator] = tuple(Operator),
    n_spare: int = 0,
) -> Instrumentation:
    """Wrap the decoder layers that this rank holds, and what they write to the stream.

    Args:
        model: the loaded causal language model (``runner.get_model()``).
        bundle: probes and directions for exactly this model.
        max_tokens: most tokens in one step.
        operators: what requests may steer with.
        n_spare: lines of the steering table for directions that are loaded later.

    Raises:
        EngineSetupError: where the stream runs in this model is not known.
    """
    blocks = find_blocks(model, bundle.manifest.model.n_layers)
    device = next(model.parameters()).device
    columns = _columns(bundle)
    names = tuple(c.name for c in columns)
    scores = torch.full((max_tokens, len(columns)), torch.nan, dtype=torch.float32, device=device)
    steering = SteeringTable(bundle, names, scores, operators, n_spare)
    write_change = steering.at_write()
    for block in blocks:
        first = next((i for i, c in enumerate(columns) if c.layer == block.layer), 0)
        tap = _make_tap([c for c in columns if c.layer == block.layer], first, scores)
        entry_change = write_change if block.layer == 0 else None
        _wrap_layer(block, entry_change, tap, steering.at_output(block.layer))
        if write_change is not None:
            for module in block.writes:
                _wrap_write(module, write_change)
    here = {b.layer for b in blocks}
    own = frozenset(i for i, c in enumerate(columns) if c.layer in here)
    return Instrumentation(names, scores, steering, tuple(sorted({columns[i].layer for i in own})), own)


def _columns(bundle: Bundle) -> list[_Column]:
    """By layer; within a layer the values in manifest order, then the queries of attention probes."""
    values, queries = [], []
    for probe in bundle.manifest.probes:
        weights = torch.from_numpy(bundle.probe_weights(probe.name).copy())
        values.append(_Column(probe.name, probe.layer, weights, probe.bias))
        if probe.fold.kind is FoldKind.ATTENTION:
            query = torch.from_numpy(bundle.probe_query(probe.name).copy())
            queries.append(_Column(probe.name + QUERY, probe.layer, query, 0.0))
    return sorted([*values, *queries], key=lambda c: c.layer)


def _make_tap(columns: list[_Column], first: int, scores: Tensor) -> _Tap | None:
    """The tap of one layer, whose columns start at ``first``; None if no probe reads the layer."""
    if not columns:
        return None
    weights = torch.stack([c.weights for c in columns]).to(scores.device)
    bias = torch.tensor([c.bias for c in columns], dtype=torch.float32, device=scores.device)

    def tap(hidden: Tensor, residual: Tensor | None) -> None:
        stream = ops.whole(hidden, residual)
        if torch.compiler.is_compiling():  # the compiler makes one kernel of it, with the sum
            values = ops.project(stream, weights) + bias
        else:
            values = score_tokens(stream, weights.T, bias)
        torch.ops.vllm.plumbline_store(values, scores, first)

    return tap


def _wrap_layer(block: Block, entry: WriteChange | None, tap: _Tap | None, change: OutputChange | None) -> None:
    """Project the stream that enters the model's first block; read the block's output, then steer it."""
    if entry is None and tap is None and change is None:
        return
    original = block.module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if entry is not None:
            entry(block.entering(args, kwargs))
        output = original(*args, **kwargs)
        hidden, residual = block.leaving(output)
        if tap is not None:
            tap(hidden, residual)
        if change is not None:
            change(hidden, residual)
        return output

    block.module.forward = forward


def _wrap_write(module: nn.Module, change: WriteChange) -> None:
    """Project what this module is about to write onto the stream."""
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        write, bias = split_write(module, output)
        change(rows(write))
        if bias is None:
            return output
        per_token = bias.expand_as(write).clone()  # the bias itself serves all tokens, steered or not
        change(rows(per_token))
        return write, per_token

    module.forward = forward
