"""Other distributions at the threshold that was set on the first one."""

from __future__ import annotations

from collections.abc import Mapping

from probes.cards import ShiftCase
from probes.train.evaluation.groups import group
from probes.train.evaluation.inputs import Scored
from probes.train.statistic import never_trips


def shift_cases(shifts: Mapping[str, Scored], threshold: float) -> tuple[ShiftCase, ...]:
    """AUROC, misses and false positives under each shift; a rate whose label the shift lacks is None."""
    cases = []
    for name, scored in shifts.items():
        part = group(name, never_trips(scored.statistic), scored.labels, threshold)
        cases.append(
            ShiftCase(
                name=name,
                n_positive=part.n_positive,
                n_negative=part.n_negative,
                auroc=part.auroc,
                fnr=None if part.tpr is None else 1 - part.tpr,
                fpr=part.fpr,
            )
        )
    return tuple(cases)
