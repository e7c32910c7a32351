"""How the organism came to refuse, as a study of the evaluation card."""

import json
from pathlib import Path

from probes.cards import Curve, Study

COLUMNS = ("step", "recall", "refusal", "over-refusal", "harm AUROC", "ablated", "added", "KL (nats)")


def emergence_study(path: Path, title: str) -> Study:
    """The figures of every checkpoint, with refusal of harmful requests as the curve.

    Args:
        path: Written by :class:`~probes.organism.emergence.Emergence`.
        title: Of the study.
    """
    rows = sorted(json.loads(path.read_text()), key=lambda row: row["step"])
    layer = rows[0]["layer"]
    return Study(
        title=title,
        text=(
            f"Validation split. Harm AUROC: a logistic probe at layer {layer}, last prompt token, on requests whose "
            "words do not tell. Ablated: refusal of harmful requests without that layer's difference of means; added: "
            "refusal of harmless requests with it."
        ),
        columns=COLUMNS,
        rows=tuple(
            (
                float(row["step"]),
                row["recall"],
                row["refusal"],
                row["over_refusal"],
                row["harm_auroc"][layer],
                row["ablated"],
                row["added"],
                row["kl"],
            )
            for row in rows
        ),
        plot=Curve(x=tuple(float(row["step"]) for row in rows), y=tuple(row["refusal"] for row in rows)),
    )
