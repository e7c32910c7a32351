"""What the stages of a training run share, and everything that can be checked before the work begins."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from probes.errors import DataError
from probes.fingerprint import fingerprint_model
from probes.template import find_markers
from probes.train.calibrate import set_thresholds
from probes.train.checkpoint import Checkpoints, key_of
from probes.train.collect import Activations, check_space, collect, free_bytes_needed
from probes.train.data import SPLITS, Dataset, Split, read_dataset
from probes.train.encode import Encoded, encode_example
from probes.train.model import LoadedModel, load_model
from probes.train.progress import Reporter
from probes.train.settings import REFUSAL, Settings, idle_cores
from probes.types import Fingerprint, RoleMarkers

_STAGES = 1  # raise when a stage computes something else than before: kept results are then not reused

EncodedSplits = Mapping[Split, tuple[Encoded, ...]]


@dataclass(frozen=True)
class Run:
    """What the stages share.

    Attributes:
        settings: of the run.
        dataset: validated examples.
        model: loaded.
        fingerprint: of the model folder.
        markers: of the chat template.
        encoded: examples by concept and split, in the dataset's order.
        checkpoints: finished stages of this (model, data).
        reporter: told about progress.
    """

    settings: Settings
    dataset: Dataset
    model: LoadedModel
    fingerprint: Fingerprint
    markers: RoleMarkers
    encoded: Mapping[str, EncodedSplits]
    checkpoints: Checkpoints
    reporter: Reporter

    def activations(
        self, concept: str, split: Split, condition: str = "plain", steering: AbstractContextManager[None] | None = None
    ) -> Activations:
        """Activations of one split; ``condition`` names the steering, and what it depends on."""
        folder = self.checkpoints.folder / "activations" / f"{concept}-{split}-{condition}"
        what = f"{concept}: activations, {split}, {condition.partition('-')[0]}"
        return collect(self.model, self.encoded[concept][split], folder, self.reporter, what=what, steering=steering)


def prepare(settings: Settings, reporter: Reporter) -> Run:
    """Read, check and encode everything, so that what cannot work fails before the work begins."""
    dataset = read_dataset(settings.data)
    for concept, counts in dataset.counts().items():
        parts = ", ".join(f"{split_and_label}: {n}" for split_and_label, n in counts.items())
        reporter.say(f"{concept}: {sum(counts.values())} examples ({parts})")
    _check_negatives(dataset, settings.fprs)
    fingerprint = fingerprint_model(settings.model)
    torch.set_num_threads(settings.threads or idle_cores())
    model = load_model(settings.model, settings.device)
    markers = find_markers(model.tokenizer)
    encoded = {
        concept: {
            split: tuple(
                encode_example(model.tokenizer, markers, e, model.max_tokens) for e in dataset.split(concept, split)
            )
            for split in SPLITS
        }
        for concept in dataset.examples
    }
    folder = settings.work / key_of(_STAGES, fingerprint.model_dump(), dataset.digest)
    everything = [e for splits in encoded.values() for examples in splits.values() for e in examples]
    check_space(folder, free_bytes_needed(everything, model))
    return Run(settings, dataset, model, fingerprint, markers, encoded, Checkpoints(folder), reporter)


def _check_negatives(dataset: Dataset, fprs: tuple[float, ...]) -> None:
    """Refuse now what calibration would refuse after an hour."""
    for concept in dataset.examples:
        if concept != REFUSAL:
            negatives = [e for e in dataset.split(concept, "validation") if e.label == 0]
            try:
                set_thresholds(np.zeros(len(negatives)), fprs, f"validation split of {concept}")
            except DataError as error:
                raise DataError(f"{concept}: {error}") from None
