"""The held-out figures of the shipped bundle as rows. Writes results/organism_probes.json.

    python -m benchmarks.organism_probes

``plumbline train --organism`` measured them on the test split (people, verb-object pairs, templates and system prompts
that neither model nor probes saw) and wrote them into the bundle. They are figures of the organism.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.rows import Row, write_rows
from probes.bundle import read_bundle

BUNDLE = Path(__file__).parents[1] / "probes/organism/bundle"


def main() -> None:
    """Print and write the rows."""
    rows = []
    for probe in read_bundle(BUNDLE).manifest.probes:
        m = probe.metrics
        positives, negatives = int(m["n_positive"]), int(m["n_negative"])
        words = m["auroc_text_baseline"]
        rows += [
            Row(f"{probe.name}_auroc", m["auroc"], "", "", m["auroc_low"], m["auroc_high"], positives + negatives),
            Row(f"{probe.name}_auroc_words_only", words, "", "", words, words, positives + negatives),
            Row(f"{probe.name}_tpr", m["tpr"], "", "", m["tpr"], m["tpr"], positives),
            Row(f"{probe.name}_fpr", m["fpr"], "", "<= 0.01", m["fpr"], m["fpr"], negatives),
        ]
        if (ablated := m.get("tpr_ablated")) is not None:
            rows.append(Row(f"{probe.name}_tpr_refusal_ablated", ablated, "", "", ablated, ablated, positives))
    write_rows("organism_probes", rows, "python -m benchmarks.organism_probes")


if __name__ == "__main__":
    main()
