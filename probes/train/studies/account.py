"""What trips a probe: the attributions of a set of examples, and the tables that show them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from probes.cards import Curve, Failure, Study
from probes.train.encode import Encoded
from probes.train.metrics import Labels
from probes.train.model import LoadedModel
from probes.train.studies.deletion import N_DRAWS, Deletion, removable
from probes.train.studies.served import ServedProbe
from probes.train.studies.writes import part_name

N_SHOWN = 12
_FEWEST = 5  # times that a token must stand there to be listed


@dataclass(frozen=True)
class Account:
    """Attributions of ``n`` examples, in order.

    Attributes:
        statistic: ``(n,)`` fp64.
        tokens: ``(n_tokens,)`` fp64 of each example.
        direct: of every write, exact: ``(n,)`` fp64 by name. direct_heads: ``(n, n_layers, n_heads)``.
        heads, mlps: gradient x activation, ``(n, n_layers, n_heads)`` and ``(n, n_layers)``.
    """

    statistic: Tensor
    tokens: tuple[Tensor, ...]
    direct: dict[str, Tensor]
    direct_heads: Tensor
    heads: Tensor
    mlps: Tensor


def writes_study(probe: ServedProbe, account: Account, hits: Labels, quiet: Labels) -> Study:
    """Shares of every write, for positives that trip (indices ``hits``) and negatives that do not (``quiet``)."""
    slopes = {part_name(i, "MLP"): account.mlps[:, i] for i in range(account.mlps.shape[1])}
    slopes |= {part_name(i, "attention"): account.heads[:, i].sum(dim=1) for i in range(account.heads.shape[1])}
    rows: list[tuple[str | float | None, ...]] = []
    for name, share in {**account.direct, "sum: the score": account.statistic}.items():
        mine, others = float(share[hits].mean()), float(share[quiet].mean())
        slope = float(slopes[name][hits].mean()) if name in slopes else None
        rows.append((name, mine, others, mine - others, slope))
    return Study(
        title=f"{probe.name}: what writes the score",
        text="Mean logits. Direct: the exact share of each write to the residual stream up to the probe's layer "
        f"{probe.layer}; the shares add up to the score. Tripped: {len(hits)} positives that trip; quiet: "
        f"{len(quiet)} negatives that do not. A part matters where the two differ. Gradient x activation also counts "
        "what goes on through later layers, to first order, and adds up to nothing in particular.",
        columns=("part", "direct, tripped", "direct, quiet", "difference", "gradient x activation, tripped"),
        rows=tuple(rows),
    )


def heads_study(probe: ServedProbe, account: Account, hits: Labels, quiet: Labels) -> Study:
    """The heads whose shares differ most between the two."""
    direct = account.direct_heads[hits].mean(dim=0) - account.direct_heads[quiet].mean(dim=0)
    slope = account.heads[hits].mean(dim=0) - account.heads[quiet].mean(dim=0)
    n_heads = direct.shape[1]
    order = direct.flatten().abs().argsort(descending=True, stable=True)[:N_SHOWN].tolist()
    return Study(
        title=f"{probe.name}: attention heads",
        text=f"The {len(order)} heads (of {direct.numel()}) whose direct share differs most between positives that "
        "trip and negatives that do not, in logits, and the same difference of gradient x activation.",
        columns=("head", "direct", "gradient x activation"),
        rows=tuple(
            (f"layer {i // n_heads} head {i % n_heads}", float(direct.flatten()[i]), float(slope.flatten()[i]))
            for i in order
        ),
    )


def tokens_study(
    model: LoadedModel, probe: ServedProbe, account: Account, examples: Sequence[Encoded], hits: Labels
) -> Study:
    """The tokens with the highest mean attribution over the examples ``hits``."""
    by_token: dict[int, list[float]] = defaultdict(list)
    for i in hits:
        free = removable(model, examples[i])
        for token, value, counts in zip(examples[i].ids, account.tokens[i].tolist(), free.tolist(), strict=True):
            if counts:
                by_token[token].append(value)
    often = {token: values for token, values in by_token.items() if len(values) >= min(_FEWEST, len(hits))}
    best = sorted(often, key=lambda token: -float(np.mean(often[token])))[:N_SHOWN]
    return Study(
        title=f"{probe.name}: tokens that trip it",
        text="Tokens with the highest mean attribution (gradient x embedding, against the mean embedding; logits) over "
        f"positives that trip, among tokens that stand there at least {_FEWEST} times. Read this with the deletion "
        "test: an attribution that fails it names nothing.",
        columns=("token", "attribution", "times"),
        rows=tuple((model.tokenizer.decode([t]), float(np.mean(often[t])), float(len(often[t]))) for t in best),
    )


def deletion_title(probe: ServedProbe) -> str:
    """Of the deletion test."""
    return f"{probe.name}: faithfulness of the token attribution"


def deletion_study(probe: ServedProbe, deletions: Sequence[Deletion], n: int) -> Study:
    """The deletion test of ``n`` examples, a row for each share."""
    return Study(
        title=deletion_title(probe),
        text=f"Mean fall of the score, in logits, over {n} positives that trip, if a share of their tokens is replaced "
        f"by the mean embedding: those with the highest attribution, or as many at random (mean of {N_DRAWS} draws). "
        "Gap: paired difference with its 95 % bootstrap interval; the attribution is faithful where it is above 0. "
        "Still tripped: share that reaches the threshold all the same.",
        columns=(
            "removed", "top tokens", "random tokens", "gap", "gap low", "gap high", "still tripped",
            "still tripped, random",
        ),
        rows=tuple(
            (d.share, d.top.value, d.random.value, d.gap.value, d.gap.low, d.gap.high, d.still, d.still_random)
            for d in deletions
        ),
        plot=Curve(x=tuple(d.share for d in deletions), y=tuple(d.gap.value for d in deletions)),
    )  # fmt: skip


def deletion_failures(probe: ServedProbe, deletions: Sequence[Deletion]) -> list[Failure]:
    """Shares at which the named tokens are not shown to matter more than random ones."""
    return [
        Failure(
            what=f"{deletion_title(probe)}: the top {d.share:.0%} of the tokens matter more than random ones",
            found=f"removing them lowers the score by {d.gap.value:+.2f} [{d.gap.low:+.2f}, {d.gap.high:+.2f}] more",
        )
        for d in deletions
        if d.gap.low <= 0
    ]
