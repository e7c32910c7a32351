"""How the columns of a sequence probe are learned: AdamW through the fold, until held-out loss stops falling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from probes.train.estimators.sequences import Sequences

Fold = Callable[[Tensor], Tensor]  # token scores (n, longest, n_columns), padded with -inf, to logits (n,)
_INITIAL_NORM = 0.1
_FALL = 1e-4  # of the loss, less does not count as progress


@dataclass(frozen=True)
class Labelled:
    """Sequences with what they should give.

    Attributes:
        sequences: ``n`` of them.
        targets: ``(n,)`` fp32, 0 or 1. weights: ``(n,)`` fp32, not negative.
    """

    sequences: Sequences
    targets: Tensor
    weights: Tensor

    def take(self, chosen: Tensor) -> Labelled:
        """Those of these indices, ``(n_chosen,)`` int64."""
        return Labelled(self.sequences.take(chosen), self.targets[chosen], self.weights[chosen])


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: AdamW's step and decay, passes at most, passes without progress, sequences a step."""

    lr: float
    weight_decay: float
    epochs: int
    patience: int
    batch_size: int


@dataclass(frozen=True)
class Learned:
    """The columns at the lowest held-out loss.

    Attributes:
        weights: ``(n_columns, d_model)`` fp32. bias: ``(n_columns,)`` fp32.
        loss: held-out cross-entropy. epochs: passes that were made.
    """

    weights: Tensor
    bias: Tensor
    loss: float
    epochs: int


def learn(
    fold: Fold, n_columns: int, train: Labelled, held_out: Labelled, schedule: Schedule, generator: torch.Generator
) -> Learned:
    """Learn columns whose fold separates the classes; the held-out loss says when to stop and what to keep."""
    d_model = train.sequences.values.shape[1]
    weights = torch.randn(n_columns, d_model, generator=generator) * (_INITIAL_NORM / d_model**0.5)
    bias = torch.zeros(n_columns)
    parameters = [weights.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.lr, weight_decay=schedule.weight_decay)
    best = Learned(weights.detach().clone(), bias.detach().clone(), float("inf"), 0)
    since, epoch = 0, 0
    batches = _batches(train, schedule.batch_size, generator)
    while epoch < schedule.epochs and since < schedule.patience:
        epoch += 1
        for index in torch.randperm(len(batches), generator=generator).tolist():
            batch = batches[index]
            optimizer.zero_grad()
            loss = _loss(fold, batch, weights, bias)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            held = float(_loss(fold, held_out, weights, bias))
        since = 0 if held < best.loss - _FALL else since + 1
        if held < best.loss:
            best = Learned(weights.detach().clone(), bias.detach().clone(), held, epoch)
    return Learned(best.weights, best.bias, best.loss, epoch)


def _batches(train: Labelled, size: int, generator: torch.Generator) -> list[Labelled]:
    """Dealt once: copying tokens together anew in every pass would cost as much as learning from them."""
    n = len(train.sequences)
    if n <= size:
        return [train]
    return [train.take(chosen) for chosen in torch.split(torch.randperm(n, generator=generator), size)]


def _loss(fold: Fold, batch: Labelled, weights: Tensor, bias: Tensor) -> Tensor:
    logits = fold(batch.sequences.scores(weights, bias))
    total = functional.binary_cross_entropy_with_logits(logits, batch.targets, batch.weights, reduction="sum")
    return total / batch.weights.sum().clamp(min=1e-12)
