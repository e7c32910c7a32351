"""Is a token attribution faithful? Remove what it names, and see whether the statistic falls more than by chance.

A token is removed by giving the model the neutral embedding in its place, so that every other token keeps its position.
Tokens that the tokenizer calls special (turn markers) are never removed, neither by rank nor at random.

Source: DeYoung et al. 2020, ERASER (arXiv:1911.03429), "comprehensiveness"; the random control per example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probes.cards import Estimate
from probes.errors import DataError
from probes.train.directions.figures import mean
from probes.train.encode import Encoded
from probes.train.model import LoadedModel
from probes.train.progress import Advance
from probes.train.studies.batches import batched
from probes.train.studies.explained import statistic
from probes.train.studies.served import ServedProbe
from probes.train.studies.trace import embed, pad_ids, run, traced

N_DRAWS = 10


@dataclass(frozen=True)
class Deletion:
    """What removing a share of the tokens does, over examples.

    Attributes:
        share: of the removable tokens, at least one.
        top: mean fall of the statistic if those with the highest attribution are removed.
        random: if as many are drawn at random, mean over the draws.
        gap: mean of the paired difference. Faithful: its interval is above 0.
        still: share of the examples that still reach the threshold without the top tokens.
        still_random: likewise without random ones.
    """

    share: float
    top: Estimate
    random: Estimate
    gap: Estimate
    still: float
    still_random: float


def removable(model: LoadedModel, example: Encoded) -> Tensor:
    """Which tokens may be removed: ``(n_tokens,)`` bool; none that the tokenizer calls special."""
    special = set(model.tokenizer.all_special_ids)
    return torch.tensor([i not in special for i in example.ids])


def delete(
    model: LoadedModel,
    probe: ServedProbe,
    examples: Sequence[Encoded],
    attributions: Sequence[Tensor],
    neutral: Tensor,
    *,
    share: float,
    seed: int,
    advance: Advance,
) -> Deletion:
    """Remove a share of the tokens by attribution, and at random.

    Args:
        model, probe: whose statistic is looked at.
        examples: at least two, each with a removable token.
        attributions: ``(n_tokens,)`` of each example.
        neutral: ``(d_model,)`` fp32, what stands in for a removed token.
        share: of the removable tokens of an example, at least one.
        seed: of the draws and of the intervals.
        advance: told about examples done.

    Raises:
        DataError: an example without a removable token.
    """
    rng = np.random.default_rng(seed)
    tops: list[Tensor] = []
    randoms: list[list[Tensor]] = [[] for _ in range(N_DRAWS)]
    for example, attribution in zip(examples, attributions, strict=True):
        places = removable(model, example).nonzero()[:, 0]
        if not len(places):
            raise DataError("an example has special tokens only; nothing can be removed from it.")
        n = max(1, round(share * len(places)))
        tops.append(places[attribution[places].argsort(descending=True, stable=True)[:n]])
        for draws in randoms:
            draws.append(torch.from_numpy(rng.permutation(places.numpy())[:n]))
    whole = without(model, probe, examples, [torch.empty(0, dtype=torch.int64)] * len(examples), neutral)
    top = without(model, probe, examples, tops, neutral)
    advance(len(examples))
    drawn = torch.stack([without(model, probe, examples, draws, neutral) for draws in randoms])
    fall, chance = whole - top, whole - drawn.mean(dim=0)
    return Deletion(
        share=share,
        top=mean(fall, seed),
        random=mean(chance, seed),
        gap=mean(fall - chance, seed),
        still=float((top >= probe.threshold).double().mean()),
        still_random=float((drawn >= probe.threshold).double().mean()),
    )


@torch.no_grad()
def without(
    model: LoadedModel, probe: ServedProbe, examples: Sequence[Encoded], removed: Sequence[Tensor], neutral: Tensor
) -> Tensor:
    """The statistic of every example with these positions removed: ``(n,)`` fp64 on the CPU."""
    found = torch.empty(len(examples), dtype=torch.float64)
    for chosen in batched(examples):
        batch = [examples[i] for i in chosen]
        ids, mask = pad_ids(model, [e.ids for e in batch])
        embedded = embed(model, ids).clone()
        for row, i in enumerate(chosen):
            embedded[row, removed[i].to(embedded.device)] = neutral.to(embedded)
        with traced(model, probe.layer) as trace:
            run(model, embedded, mask)
        found[chosen] = statistic(probe, trace.stream, batch).cpu()
    return found
