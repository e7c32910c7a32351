"""Audit probes: do they agree with the deployed one, and do they still see what a fine-tune hides from it?

Source: deployed and audit probes kept apart, because what is trained against a probe learns to evade it: Bailey et al.
2024, "Obfuscated activations bypass LLM latent-space defenses" (arXiv:2412.09565).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from probes.cards import Failure, Study
from probes.errors import DataError, ModelFormatError
from probes.train.metrics import Floats
from probes.train.model import LoadedModel
from probes.train.studies.evasion import MARGIN, Change, agreement, change, sight, verdict
from probes.train.studies.halves import Halves
from probes.train.studies.material import Material
from probes.train.studies.served import ServedProbe


def study_agreement(model: LoadedModel, material: Material, halves: Halves, seed: int = 0) -> Study:
    """Whether deployed and audit probe say the same on the test split."""
    deployed, audit = halves.deployed, halves.audit
    part = material.parts["test"]
    labels, drawn = part.labels, part.clusters
    mine, theirs = (_statistic(model, material, probe) for probe in (deployed, audit))
    rows: list[tuple[str | float | None, ...]] = []
    for probe, values, families in ((deployed, mine, halves.families[0]), (audit, theirs, halves.families[1])):
        found = sight(probe, values, labels, seed, drawn)
        who = f"{probe.name}, layer {probe.layer}, {probe.reading}, {families} families"
        rows += [
            (f"AUROC: {who}", found.auroc.value, found.auroc.low, found.auroc.high),
            (f"TPR: {who}", found.tpr, None, None),
            (f"FPR: {who}", found.fpr, None, None),
        ]
    both = agreement(deployed, audit, mine, theirs, labels)
    rows += [
        ("rank correlation of the scores", both.spearman, None, None),
        ("Cohen's kappa of what trips", None if np.isnan(both.kappa) else both.kappa, None, None),
        ("cosine of the weights (same layer only)", both.cosine, None, None),
        ("positives that trip the deployed probe only", both.only_first, None, None),
        ("positives that trip the audit probe only", both.only_second, None, None),
        ("positives that trip neither", both.neither, None, None),
    ]
    return Study(
        title=f"{material.concept}: agreement of deployed and audit probe",
        text="Two probes fitted on disjoint halves of the training families, on the test split. The audit probe is for "
        "checks only: never serve it, steer with it or train against it, or it stops being one. Layer, reading and "
        "threshold of both were chosen on the same validation split.",
        columns=("figure", "value", "low", "high"),
        rows=tuple(rows),
    )


def study_evasion(
    before: LoadedModel,
    after: LoadedModel,
    material: Material,
    watched: Sequence[ServedProbe],
    audit: ServedProbe,
    *,
    name: str,
    key: str,
    margin: float = MARGIN,
    seed: int = 0,
) -> tuple[Study, list[Failure]]:
    """Whether probes see on one model what they saw on the other, at their unchanged thresholds.

    Args:
        before: the model that the probes were fitted on. after: the same one after a fine-tune.
        material: examples of the concept; the test split is used.
        watched: deployed probes, each with a verdict of its own.
        audit: the probe that was kept apart.
        name: of the fine-tuned model, for people.
        key: of its weights: activations are kept under it.
        margin: fall of the TPR that counts.
        seed: of the intervals.

    Returns:
        The study; and a failure for each watched probe that did not hold.

    Raises:
        ModelFormatError: the models are of different shapes.
        DataError: their tokenizers differ, so that their activations cannot be compared token by token.
    """
    _check_alike(before, after)
    changes = [watch(before, after, material, probe, key, seed) for probe in (*watched, audit)]
    *mine, reference = changes
    verdicts = [verdict(c, reference, margin) for c in mine]
    rows = [_row(c, v) for c, v in zip(changes, [*verdicts, "(reference)"], strict=True)]
    title = f"{material.concept}: deployed and audit probe on {name}"
    study = Study(
        title=title,
        text=f"The test split on the model before and on {name}, thresholds unchanged. Verdict evaded: the TPR fell by "
        f"more than {margin:.0%} while that of the audit probe did not; both lost: so did the audit probe's, and "
        "nothing here tells evasion from a concept that is gone. Held says that this audit probe sees no evasion, "
        "not that there is none. AUROC that stays while the TPR falls means that a new threshold would do.",
        columns=(
            "probe", "verdict", "AUROC before", "AUROC after", "TPR before", "TPR after", "fall", "fall low",
            "fall high", "FPR before", "FPR after",
        ),
        rows=tuple(rows),
    )  # fmt: skip
    return study, [
        Failure(
            what=f"{title}: {c.probe.name} sees what it saw before the fine-tune",
            found=f"{v}: TPR from {c.before.tpr:.1%} to {c.after.tpr:.1%}; audit probe from "
            f"{reference.before.tpr:.1%} to {reference.after.tpr:.1%}",
        )
        for c, v in zip(mine, verdicts, strict=True)
        if v != "held"
    ]


def watch(
    before: LoadedModel, after: LoadedModel, material: Material, probe: ServedProbe, key: str, seed: int = 0
) -> Change:
    """One probe on the test split of both models; ``key`` as for :func:`study_evasion`."""
    pair = (_statistic(before, material, probe), _statistic(after, material, probe, f"after_{key}"))
    part = material.parts["test"]
    return change(probe, pair[0], pair[1], part.labels, seed, part.clusters)


def _statistic(model: LoadedModel, material: Material, probe: ServedProbe, name: str = "model") -> Floats:
    return probe.statistic(material.activations(model, "test", (probe.layer,), name))


def _row(c: Change, found: str) -> tuple[str | float | None, ...]:
    figures = (c.before.auroc.value, c.after.auroc.value, c.before.tpr, c.after.tpr)
    return (c.probe.name, found, *figures, c.fall.value, c.fall.low, c.fall.high, c.before.fpr, c.after.fpr)


def _check_alike(before: LoadedModel, after: LoadedModel) -> None:
    shapes = [(m.architecture, len(m.layers), m.d_model) for m in (before, after)]
    if shapes[0] != shapes[1]:
        raise ModelFormatError(
            f"the model after is {shapes[1]}, before {shapes[0]} (architecture, layers, width); wanted a fine-tune of "
            "the same model."
        )
    vocabularies = [(m.tokenizer.get_vocab(), m.tokenizer.chat_template) for m in (before, after)]
    if vocabularies[0] != vocabularies[1]:
        raise DataError("the models have different tokenizers or chat templates; wanted a fine-tune of the same model.")
