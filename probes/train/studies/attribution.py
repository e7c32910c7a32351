"""What a tripped score comes from: tokens, heads and MLPs; and whether that account is faithful."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from probes.cards import Failure, Study
from probes.errors import DataError
from probes.train.encode import Encoded
from probes.train.model import LoadedModel
from probes.train.progress import Reporter
from probes.train.studies.account import (
    Account,
    deletion_failures,
    deletion_study,
    heads_study,
    tokens_study,
    writes_study,
)
from probes.train.studies.batches import batched
from probes.train.studies.deletion import delete
from probes.train.studies.gradients import gradients, neutral_embedding
from probes.train.studies.material import Part
from probes.train.studies.served import ServedProbe
from probes.train.studies.writes import direct_shares

SHARES = (0.05, 0.1, 0.2, 0.4)


def account_for(
    model: LoadedModel, probe: ServedProbe, examples: Sequence[Encoded], neutral: Tensor, reporter: Reporter
) -> Account:
    """Attribute the statistic of every example.

    Args:
        model: that is read.
        probe: whose statistic it is.
        examples: at least one.
        neutral: ``(d_model,)`` fp32, see :func:`~probes.train.studies.gradients.gradients`.
        reporter: told about progress.

    Raises:
        DataError: an example has too few tokens in scope.
        ModelFormatError: an architecture whose writes cannot be told apart.
    """
    order: list[int] = []
    found = []
    tokens: dict[int, Tensor] = {}
    with reporter.track(f"{probe.name}: attribution", len(examples), "examples") as advance:
        for chosen in batched(examples):
            batch = [examples[i] for i in chosen]
            slopes = gradients(model, probe, batch, neutral)
            found.append((direct_shares(model, probe, batch), slopes))
            order += chosen
            tokens |= {i: slopes.tokens[row, : len(examples[i].ids)].cpu() for row, i in enumerate(chosen)}
            advance(len(chosen))
    back = torch.tensor(order).argsort()

    def together(pieces: Sequence[Tensor]) -> Tensor:
        return torch.cat([piece.cpu() for piece in pieces])[back]

    return Account(
        statistic=together([direct.statistic for direct, _ in found]),
        tokens=tuple(tokens[i] for i in range(len(examples))),
        direct={name: together([direct.parts[name] for direct, _ in found]) for name in found[0][0].parts},
        direct_heads=together([direct.heads for direct, _ in found]),
        heads=together([slopes.heads for _, slopes in found]),
        mlps=together([slopes.mlps for _, slopes in found]),
    )


def study_attribution(
    model: LoadedModel, probe: ServedProbe, part: Part, reporter: Reporter, seed: int = 0
) -> tuple[list[Study], list[Failure]]:
    """Attribute the scores of positives that trip, beside negatives that do not.

    Args:
        model: that is read.
        probe: that trips.
        part: examples of both labels; those with fewer tokens than the fold needs are left out.
        reporter: told about progress.
        seed: of random deletions and intervals.

    Returns:
        Studies, and what did not work: shares at which deletion does not show the tokens to be the right ones.

    Raises:
        DataError: the probe reads another part of the conversation, fewer than two positives trip, or no negative
            stays below the threshold.
        ModelFormatError: an architecture whose writes cannot be told apart.
    """
    probe.check(part.encoded)
    fewest = probe.reading.fold.min_tokens
    part = part.take([i for i, e in enumerate(part.encoded) if e.n_read >= fewest])  # the others are never scored
    examples = part.encoded
    neutral = neutral_embedding(model, examples)
    account = account_for(model, probe, examples, neutral, reporter)
    tripped = (account.statistic >= probe.threshold).numpy()
    hits, quiet = np.flatnonzero(tripped & (part.labels == 1)), np.flatnonzero(~tripped & (part.labels == 0))
    if len(hits) < 2 or not len(quiet):
        raise DataError(
            f"{probe.name}: {len(hits)} of {int(part.labels.sum())} positives trip and {len(quiet)} negatives do not; "
            "wanted at least two and one. Give more examples."
        )
    with reporter.track(f"{probe.name}: deletion", len(SHARES) * len(hits), "examples") as advance:
        chosen = [examples[i] for i in hits]
        named = [account.tokens[i] for i in hits]
        deletions = [
            delete(model, probe, chosen, named, neutral, share=share, seed=seed, advance=advance) for share in SHARES
        ]
    studies = [
        writes_study(probe, account, hits, quiet),
        heads_study(probe, account, hits, quiet),
        tokens_study(model, probe, account, examples, hits),
        deletion_study(probe, deletions, len(hits)),
    ]
    return studies, deletion_failures(probe, deletions)
