"""A training run from data to bundle, stage by stage; each stage is kept, so that a rerun goes on.

1. Read and check the data; load the model; learn the chat template's markers.
2. The directions and their causal cards: of the concept ``refusal``, and of those that were asked for.
3. For each concept: collect activations (plain, and for prompts also with the direction ablated and
   added), choose layer, reading, estimator and regularisation on validation data, set thresholds, then look at the
   test split once, with its shifts, baselines and controls.
4. What steering with the directions does to the probes, and what it does where a probe asks for it.
5. Write the bundle with its card.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from probes.bundle import Bundle, direction_tensor, probe_tensor, query_tensor, write_bundle
from probes.cards import Card, Failure
from probes.errors import DataError, NoDirectionError
from probes.train.direction_stages import find_one, judged_with_probes
from probes.train.directions.find import FoundDirection
from probes.train.failures import data_failures, direction_failures, probe_failures
from probes.train.progress import Reporter
from probes.train.run import Run, prepare
from probes.train.settings import REFUSAL, Settings
from probes.train.stages import TrainedProbe, train_probe
from probes.types import Manifest, ModelInfo

_ADVICE = (
    "Figures are of the test split of the given data, for this model only. Thresholds were set on validation "
    "negatives, on which the probe was chosen as well: the false-positive rate to believe is the measured one, and on "
    "traffic like the test negatives only. Watch drift, and recalibrate on your own traffic."
)
_NOT_SETTINGS = {"model", "data", "out", "work", "name", "version", "overwrite", "threads", "note"}


def train(settings: Settings, reporter: Reporter) -> Bundle:
    """Run everything that is not done yet, and write the bundle.

    Raises:
        DataError: the data cannot be used; before any forward pass where that can be known.
        ModelFormatError: the model cannot be used.
        BundleFormatError: ``settings.out`` is taken.
    """
    started = time.monotonic()
    run = prepare(settings, reporter)
    _check_names(run)
    found, failures = _directions(run)
    trained = {c: train_probe(run, c, found.get(REFUSAL)) for c in run.dataset.examples if c != REFUSAL}
    found = {c: judged_with_probes(run, direction, trained) for c, direction in found.items()}
    manifest = Manifest(
        name=settings.name,
        version=settings.version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=_model_info(run),
        probes=tuple(t.probe for t in trained.values()),
        directions=tuple(d.direction for d in found.values()),
    )
    card = _card(run, trained, found, failures, time.monotonic() - started)
    for failure in card.failures:
        reporter.say(f"did not work: {failure.what}; found: {failure.found}")
    return write_bundle(settings.out, manifest, _tensors(trained, found), card=card, overwrite=settings.overwrite)


def _directions(run: Run) -> tuple[dict[str, FoundDirection], list[Failure]]:
    """The directions of all concepts that are to have one; a model that does not show a behaviour has none."""
    found, failures = {}, []
    for concept in dict.fromkeys((REFUSAL, *run.settings.directions)):
        if concept not in run.dataset.examples:
            continue
        try:
            found[concept] = find_one(run, concept)
        except NoDirectionError as error:
            failures.append(Failure(what=f"direction {concept}", found=str(error)))
    return found, failures


def _check_names(run: Run) -> None:
    if unknown := sorted(set(run.settings.directions) - set(run.dataset.examples)):
        raise DataError(
            f"directions of {', '.join(unknown)} were asked for; the data has {', '.join(run.dataset.examples)}."
        )
    n_layers = len(run.model.layers)
    if wrong := [layer for layer in run.settings.layers if not 0 <= layer < n_layers]:
        raise DataError(f"layers {wrong} were asked for; the model has layers 0 to {n_layers - 1}.")


def _tensors(
    trained: Mapping[str, TrainedProbe], found: Mapping[str, FoundDirection]
) -> dict[str, NDArray[np.float32]]:
    tensors = {probe_tensor(c): t.weights.numpy() for c, t in trained.items()}
    tensors |= {query_tensor(c): t.query.numpy() for c, t in trained.items() if t.query is not None}
    return tensors | {direction_tensor(c): d.vector.numpy() for c, d in found.items()}


def _card(
    run: Run,
    trained: Mapping[str, TrainedProbe],
    found: Mapping[str, FoundDirection],
    failures: Sequence[Failure],
    seconds: float,
) -> Card:
    settings = run.settings
    data = (f for concept, examples in run.dataset.examples.items() for f in data_failures(concept, examples))
    failures = [*data, *failures, *(f for t in trained.values() for f in probe_failures(t.probe, t.card))]
    failures += [f for d in found.values() for f in direction_failures(d.direction, d.card)]
    return Card(
        note=settings.note,
        advice=_ADVICE,
        data={"sha256": run.dataset.digest, "counts": run.dataset.counts()},
        settings={
            **{k: v for k, v in asdict(settings).items() if k not in _NOT_SETTINGS},
            "seconds": round(seconds, 1),
            "versions": {name: version(name) for name in ("torch", "transformers", "scikit-learn")},
        },
        probes={c: t.card for c, t in trained.items()},
        directions={c: d.card for c, d in found.items()},
        failures=tuple(failures),
    )


def _model_info(run: Run) -> ModelInfo:
    return ModelInfo(
        name=run.settings.model_name,
        architecture=run.model.architecture,
        n_layers=len(run.model.layers),
        d_model=run.model.d_model,
        fingerprint=run.fingerprint,
        markers=run.markers,
    )
