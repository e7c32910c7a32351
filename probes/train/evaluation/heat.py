"""A few conversations token by token: what the probe is surest about, and where it errs most."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from probes.cards import HeatMap
from probes.train.evaluation.detection import first_trip, tokens_of
from probes.train.evaluation.inputs import Scored
from probes.types import Probe

PER_KIND = 2
MAX_TOKENS = 320


def heat_maps(probe: Probe, scored: Scored, decode: Callable[[Sequence[int]], list[str]]) -> tuple[HeatMap, ...]:
    """The highest positives, the highest negatives that trip, and the lowest positives that do not."""
    statistic, labels, threshold = scored.statistic, scored.labels, probe.thresholds[0].value
    rows = np.flatnonzero(~np.isnan(statistic))
    descending = rows[np.argsort(-statistic[rows], kind="stable")]
    positives, negatives = (descending[labels[descending] == k] for k in (1, 0))
    chosen = [
        *positives[:PER_KIND],
        *negatives[statistic[negatives] >= threshold][:PER_KIND],
        *positives[statistic[positives] < threshold][::-1][:PER_KIND],
    ]
    return tuple(heat_map(probe, scored, int(i), decode) for i in dict.fromkeys(chosen))


def heat_map(probe: Probe, scored: Scored, i: int, decode: Callable[[Sequence[int]], list[str]]) -> HeatMap:
    """One conversation; of a long one the 320 tokens around the trip, or around the highest score."""
    encoded = scored.encoded[i]
    threshold = probe.thresholds[0].value
    tokens, queries = tokens_of(scored, i)
    if probe.scope.phase == "response":
        read = first_trip(probe.fold, tokens, queries, threshold)
    else:  # decided once, after the last token
        read = len(tokens) - 1 if scored.statistic[i] >= threshold else None
    tripped_at = None if read is None else encoded.start + read
    values = [None if np.isnan(s) else float(s) for s in tokens.tolist()]
    scores = [None] * encoded.start + values + [None] * (len(encoded.ids) - encoded.end)
    centre = tripped_at if tripped_at is not None else encoded.start + int(tokens.nan_to_num(nan=-np.inf).argmax())
    first = max(0, min(centre - MAX_TOKENS // 2, len(encoded.ids) - MAX_TOKENS))
    shown = slice(first, first + MAX_TOKENS)
    return HeatMap(
        id=scored.examples[i].id,
        label=encoded.label,
        tokens=tuple(decode(encoded.ids[shown])),
        scores=tuple(scores[shown]),
        threshold=threshold,
        tripped_at=None if tripped_at is None else tripped_at - first,
    )
