"""What a probe reaches where there is nothing to find: each control takes one cause of its figure away.

    shuffled labels   the same fit on permuted training labels: what the capacity of the fit alone reaches
    random direction  no fit at all: what the spread of activations alone reaches; the better sign of each counts
    untrained model   the same pipeline on re-initialised weights: what the words reach through any network

Source: Hewitt and Liang 2019 (arXiv:1909.03368) for control tasks; Zhang and Bowman 2018 (arXiv:1809.10040) for
untrained encoders.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from probes.cards import Comparison, Estimate
from probes.train.evaluation.inputs import Judged
from probes.train.evaluation.intervals import auroc_estimate, auroc_gap
from probes.train.metrics import Floats, auroc
from probes.train.progress import Reporter
from probes.train.statistic import never_trips

N_PERMUTATIONS = 5
N_DIRECTIONS = 100


def controls(judged: Judged, reporter: Reporter) -> tuple[Comparison, ...]:
    """All controls on the test split.

    An estimate over permutations or directions is their mean with the lowest and the highest of them; the single
    best direction and the untrained model have bootstrap intervals and a gap.
    """
    probe = never_trips(judged.test.statistic)
    labels = judged.test.labels
    shuffled = [auroc(scores, labels) for scores in _shuffled(judged, reporter)]
    directions = [_better_sign(scores, judged) for scores in _random(judged, reporter)]
    best = max(directions, key=lambda scores: auroc(scores, labels))
    found = [
        Comparison(name=f"shuffled labels, mean of {N_PERMUTATIONS}", kind="control", auroc=_spread(shuffled)),
        Comparison(
            name=f"random direction, mean of {N_DIRECTIONS}",
            kind="control",
            auroc=_spread([auroc(scores, labels) for scores in directions]),
        ),
        _against(probe, best, judged, f"random direction, best of {N_DIRECTIONS}"),
    ]
    if judged.untrained is not None:
        found.append(_against(probe, never_trips(judged.untrained), judged, "untrained model"))
    return tuple(found)


def _shuffled(judged: Judged, reporter: Reporter) -> list[Floats]:
    rng = np.random.default_rng(judged.seed)
    labels = np.array([e.label for e in judged.train], dtype=np.int64)
    found = []
    with reporter.track("controls: shuffled labels", N_PERMUTATIONS, "fits") as advance:
        for _ in range(N_PERMUTATIONS):
            found.append(never_trips(judged.refit(rng.permutation(labels))))
            advance(1)
    return found


def _random(judged: Judged, reporter: Reporter) -> list[Floats]:
    rng = np.random.default_rng(judged.seed)
    found = []
    with reporter.track("controls: random directions", N_DIRECTIONS, "directions") as advance:
        for _ in range(N_DIRECTIONS):
            found.append(judged.random(rng))
            advance(1)
    return found


def _better_sign(statistic: Floats, judged: Judged) -> Floats:
    """Of a direction and its opposite, what ranks the test labels better: a control may not be too easy to beat."""
    scores, opposite = never_trips(statistic), never_trips(-statistic)
    labels = judged.test.labels
    return max(scores, opposite, key=lambda values: auroc(values, labels))


def _against(probe: Floats, control: Floats, judged: Judged, name: str) -> Comparison:
    labels, seed = judged.test.labels, judged.seed
    return Comparison(
        name=name,
        kind="control",
        auroc=auroc_estimate(control, labels, seed),
        gap=auroc_gap(probe, control, labels, seed),
    )


def _spread(figures: Sequence[float]) -> Estimate:
    return Estimate(value=float(np.mean(figures)), low=min(figures), high=max(figures))
