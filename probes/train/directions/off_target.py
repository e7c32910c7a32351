"""Whether steering with one direction moves what probes read about other concepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.cards import Effect
from probes.train.directions.figures import mean
from probes.train.directions.passes import nothing
from probes.train.encode import Encoded
from probes.train.evaluation.intervals import auroc_estimate
from probes.train.interventions import PLAIN, Steering
from probes.train.metrics import auroc
from probes.train.model import LoadedModel, forward, observed
from probes.train.progress import Advance, Reporter

Statistic = Callable[[Tensor, Tensor], NDArray[np.float64]]
_BATCH = 32


@dataclass(frozen=True)
class Reader:
    """A probe as this page needs it.

    Attributes:
        concept: that it detects. layer: that it reads.
        statistic: from activations ``(n_tokens, d_model)`` fp32, examples one behind the other, and offsets
            ``(n_examples + 1,)`` int64 to the number that is compared with its threshold, ``(n_examples,)``; NaN:
            unscored.
        examples: of its test split.
    """

    concept: str
    layer: int
    statistic: Statistic
    examples: tuple[Encoded, ...]


def on_probes(
    model: LoadedModel, readers: Sequence[Reader], steerings: Sequence[Steering], seed: int, reporter: Reporter
) -> list[Effect]:
    """Mean shift of each probe's statistic and its AUROC, under each steering.

    The probe reads before anything is added at its own layer, as the engine's tap does.

    Args:
        model: that is steered. readers: probes of other concepts. steerings: to be judged.
        seed: of the bootstrap. reporter: told about progress.
    """
    found = []
    total = sum(len(r.examples) for r in readers) * (1 + len(steerings))
    with reporter.track("effect on other concepts", total, "examples") as advance:
        for reader in readers:
            labels = np.array([e.label for e in reader.examples])
            before = read(model, reader, PLAIN, advance)
            for steering in steerings:
                after = read(model, reader, steering, advance)
                scored = ~np.isnan(before) & ~np.isnan(after)
                found += _compared(reader.concept, steering, before[scored], after[scored], labels[scored], seed)
    return found


def read(model: LoadedModel, reader: Reader, steering: Steering, advance: Advance = nothing) -> NDArray[np.float64]:
    """The probe's statistic of each of its examples while the model is steered."""
    rows: list[Tensor] = [torch.empty(0)] * len(reader.examples)
    order = sorted(range(len(reader.examples)), key=lambda i: len(reader.examples[i].ids))
    seen: dict[int, Tensor] = {}
    with observed(model, [reader.layer], seen.__setitem__):  # opened first: it sees the stream before `add` does
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            examples = [reader.examples[i] for i in batch]
            with steering.applied(model, torch.tensor([e.n_prompt for e in examples])):
                forward(model, [e.ids for e in examples])
            for row, (i, e) in enumerate(zip(batch, examples, strict=True)):
                rows[i] = seen[reader.layer][row, e.start : e.end].float().cpu()
            advance(len(batch))
    offsets = torch.tensor([0, *(e.n_read for e in reader.examples)]).cumsum(0)
    return reader.statistic(torch.cat(rows), offsets)


def _compared(
    concept: str,
    steering: Steering,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    labels: NDArray[np.int64],
    seed: int,
) -> list[Effect]:
    """Nothing can be compared where no example was scored, and no AUROC made of one label."""
    found = []
    if len(labels):
        shift = mean(torch.from_numpy(after - before), seed)
        found.append(
            Effect(name=f"score of {concept}", steering=steering.name, before=0.0, after=shift, unit="logits",
                   off_target=True)
        )  # fmt: skip
    if len(set(labels.tolist())) == 2:
        estimate = auroc_estimate(after, labels, seed)
        found.append(
            Effect(name=f"AUROC of {concept}", steering=steering.name, before=auroc(before, labels),
                   after=estimate, unit="AUROC", off_target=True)
        )  # fmt: skip
    return found
