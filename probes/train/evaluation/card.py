"""The evaluation card of one probe, from everything that was chosen before."""

from __future__ import annotations

import numpy as np

from probes.cards import ProbeCard
from probes.errors import DataError
from probes.train.evaluation.baselines import text_baselines
from probes.train.evaluation.cascade import cascade_curve
from probes.train.evaluation.controls import controls
from probes.train.evaluation.curves import calibration_card, histograms, roc_points
from probes.train.evaluation.detection import detection_time
from probes.train.evaluation.groups import by_length, by_source, worst_families
from probes.train.evaluation.heat import heat_maps
from probes.train.evaluation.inputs import Judged, Scored
from probes.train.evaluation.intervals import bootstrap
from probes.train.evaluation.operating import fpr_estimate, further_figures, n_unscored, served, tpr_estimate
from probes.train.evaluation.ranking import Ranking
from probes.train.evaluation.shifts import shift_cases
from probes.train.metrics import auroc
from probes.train.progress import Reporter
from probes.train.statistic import never_trips, worst_case
from probes.types import Probe, Scope

_READS = {
    Scope.LAST_USER: "the last user turn and the template tokens after it",
    Scope.PROMPT: "the whole prompt",
    Scope.RESPONSE: "the response, without the token that ends it",
    Scope.ALL: "prompt and response",
}


def probe_card(judged: Judged, reporter: Reporter) -> ProbeCard:
    """Measure everything about one probe on the test split.

    Groups, shifts, detection, cascade and heat maps are at the probe's first threshold. ``tpr_at`` and
    ``measured_fpr_at`` are, for each rate, at the first threshold of that rate, as it is served. What ``conditions``
    holds is in :func:`~probes.train.evaluation.operating.further_figures`.

    Raises:
        DataError: the test split has one label only, or no scored negative.
    """
    probe, test = judged.probe, judged.test
    _check(test, probe)
    labels, scores, threshold = test.labels, never_trips(test.statistic), probe.thresholds[0].value
    ranked, families = worst_case(test.statistic, labels), test.families
    ranking = Ranking.of(ranked, labels)
    thresholds = served(probe.thresholds)
    rates = {rate: fpr_estimate(test, t.value, judged.seed) for rate, t in thresholds.items()}
    return ProbeCard(
        concept=probe.concept,
        reads=reads(probe),
        n_positive=int(labels.sum()),
        n_negative=int((labels == 0).sum()),
        n_unscored=n_unscored(test.statistic),
        n_families=None if families is None else int(families.max()) + 1,
        auroc=bootstrap(ranking.auroc, labels, judged.seed, families=families),
        auprc=bootstrap(ranking.average_precision, labels, judged.seed, families=families),
        tpr_at={rate: tpr_estimate(test, t.value, judged.seed) for rate, t in thresholds.items()},
        measured_fpr_at={rate: found.value for rate, found in rates.items()},
        fpr_interval_at={rate: (found.low, found.high) for rate, found in rates.items()},
        by_seed=tuple(auroc(worst_case(statistic, labels), labels) for statistic in judged.seeds),
        conditions=further_figures(judged),
        candidates=judged.candidates,
        roc=roc_points(ranked, labels),
        calibration=calibration_card(probe.calibration, test.reported(probe), labels),
        histograms=histograms(test.statistic, labels),
        by_length=by_length(test.encoded, scores, threshold),
        by_source=by_source(test.examples, scores, threshold),
        worst=worst_families(test.examples, scores, threshold),
        detection=detection_time(probe, test),
        comparisons=(
            *text_baselines(judged.train, judged.validation.examples, test, judged.seed, reporter),
            *controls(judged, reporter),
        ),
        shifts=shift_cases(judged.shifts, threshold),
        cascade=cascade_curve(test.statistic, labels, threshold),
        heat_maps=heat_maps(probe, test, judged.decode),
    )


def reads(probe: Probe) -> str:
    """Which tokens are read and how they become one score, in words."""
    when = "judged once, after the last prompt token" if probe.scope.phase == "prompt" else "judged at every token"
    least = f", from {probe.fold.min_tokens} tokens on" if probe.fold.min_tokens > 1 else ""
    return f"{_READS[probe.scope]}; fold {probe.fold.kind}{least}; {when}"


def _check(test: Scored, probe: Probe) -> None:
    if len(found := np.unique(test.labels)) < 2:
        raise DataError(
            f"{probe.name}: all {len(test.examples)} test examples have label {found.tolist()}; figures need both 0 "
            "and 1. Add examples of the other label to the test split."
        )
    if np.isnan(negatives := test.statistic[test.labels == 0]).all():
        raise DataError(
            f"{probe.name}: none of {len(negatives)} test negatives has a score. Is the fold's min_tokens "
            f"({probe.fold.min_tokens}) more than the {probe.scope} scope holds?"
        )
