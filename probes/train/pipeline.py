"""A training run from data to bundle, stage by stage; each stage is kept, so that a rerun goes on.

1. Read and check the data; load the model; learn the chat template's markers.
2. The refusal direction, if there is a concept ``refusal``.
3. For each concept: collect activations (plain, and for prompts also with the direction ablated and
   added), fit every layer, choose on validation, set thresholds, look at the test split once.
4. Write the bundle.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from importlib.metadata import version

from probes.bundle import Bundle, direction_tensor, probe_tensor, write_bundle
from probes.train.progress import Reporter
from probes.train.run import Run, prepare
from probes.train.settings import REFUSAL, Settings
from probes.train.stages import find_direction, train_probe
from probes.types import Manifest, ModelInfo

_ADVICE = (
    "Figures are of the test split of the given data, for this model only. Thresholds hold their false-positive "
    "rate on traffic like the validation negatives; watch drift, and recalibrate on your own traffic."
)


def train(settings: Settings, reporter: Reporter) -> Bundle:
    """Run everything that is not done yet, and write the bundle.

    Raises:
        DataError: the data cannot be used; before any forward pass where that can be known.
        ModelFormatError: the model cannot be used.
        BundleFormatError: ``settings.out`` is taken.
    """
    started = time.monotonic()
    run = prepare(settings, reporter)
    direction = find_direction(run) if REFUSAL in run.dataset.examples else None
    concepts = [c for c in run.dataset.examples if c != REFUSAL]
    results = {concept: train_probe(run, concept, direction) for concept in concepts}
    tensors = {probe_tensor(c): tensor.numpy() for c, (_, tensor, _) in results.items()}
    if direction is not None:
        tensors[direction_tensor(REFUSAL)] = direction[1].numpy()
    manifest = Manifest(
        name=settings.name,
        version=settings.version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=_model_info(run),
        probes=tuple(probe for probe, _, _ in results.values()),
        directions=(direction[0],) if direction else (),
        card={
            "note": settings.note,
            "advice": _ADVICE,
            "data": {"sha256": run.dataset.digest, "counts": run.dataset.counts()},
            "seed": settings.seed,
            "seconds": round(time.monotonic() - started, 1),
            "versions": {name: version(name) for name in ("torch", "transformers", "scikit-learn")},
            "directions": {REFUSAL: direction[2]} if direction else {},
            "probes": {concept: card for concept, (_, _, card) in results.items()},
        },
    )
    return write_bundle(settings.out, manifest, tensors, overwrite=settings.overwrite)


def _model_info(run: Run) -> ModelInfo:
    return ModelInfo(
        name=run.settings.model_name,
        architecture=run.model.architecture,
        n_layers=len(run.model.layers),
        d_model=run.model.d_model,
        fingerprint=run.fingerprint,
        markers=run.markers,
    )
