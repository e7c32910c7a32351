"""What a probe reaches where there is nothing to find: each control takes one cause of its figure away.

    shuffled labels   the same fit on permuted training labels: what the capacity of the fit alone reaches
    random direction  no fit at all: what the spread of activations alone reaches; of each direction and its opposite,
                      both folded as the probe is, the better one counts
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
from probes.train.statistic import worst_case

N_PERMUTATIONS = 5
N_DIRECTIONS = 100


def controls(judged: Judged, reporter: Reporter) -> tuple[Comparison, ...]:
    """All controls on the test split.

    An estimate over permutations or directions is their mean with the lowest and the highest of them; the single
    best direction and the untrained model have bootstrap intervals and a gap.
    """
    labels = judged.test.labels
    shuffled = [auroc(scores, labels) for scores in _shuffled(judged, reporter)]
    directions = _random(judged, reporter)
    best = max(directions, key=lambda scores: auroc(scores, labels))
    found = [
        Comparison(name=f"shuffled labels, mean of {N_PERMUTATIONS}", kind="control", auroc=_spread(shuffled)),
        Comparison(
            name=f"random direction, mean of {N_DIRECTIONS}",
            kind="control",
            auroc=_spread([auroc(scores, labels) for scores in directions]),
        ),
        _against(best, judged, f"random direction, best of {N_DIRECTIONS}"),
    ]
    if judged.untrained is not None:
        found.append(_against(worst_case(judged.untrained, labels), judged, "untrained model"))
    return tuple(found)


def _shuffled(judged: Judged, reporter: Reporter) -> list[Floats]:
    rng = np.random.default_rng(judged.seed)
    labels = np.array([e.label for e in judged.train], dtype=np.int64)
    found = []
    with reporter.track("controls: shuffled labels", N_PERMUTATIONS, "fits") as advance:
        for _ in range(N_PERMUTATIONS):
            found.append(worst_case(judged.refit(rng.permutation(labels)), judged.test.labels))
            advance(1)
    return found


def _random(judged: Judged, reporter: Reporter) -> list[Floats]:
    """Of each direction and its opposite, what ranks the test labels better: a control may not be too easy to beat."""
    rng, labels = np.random.default_rng(judged.seed), judged.test.labels
    found = []
    with reporter.track("controls: random directions", N_DIRECTIONS, "directions") as advance:
        for _ in range(N_DIRECTIONS):
            both = (worst_case(statistic, labels) for statistic in judged.random(rng))
            found.append(max(both, key=lambda scores: auroc(scores, labels)))
            advance(1)
    return found


def _against(control: Floats, judged: Judged, name: str) -> Comparison:
    test, seed = judged.test, judged.seed
    probe = worst_case(test.statistic, test.labels)
    return Comparison(
        name=name,
        kind="control",
        auroc=auroc_estimate(control, test.labels, seed, test.families),
        gap=auroc_gap(probe, control, test.labels, seed, test.families),
    )


def _spread(figures: Sequence[float]) -> Estimate:
    return Estimate(value=float(np.mean(figures)), low=min(figures), high=max(figures))
