"""What the stages of a training run share, and everything that can be checked before the work begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch

from probes.errors import DataError
from probes.fingerprint import fingerprint_model
from probes.template import find_markers
from probes.train.calibrate import set_thresholds
from probes.train.checkpoint import Checkpoints, key_of
from probes.train.collect import Activations, Through, check_space, collect, make_job
from probes.train.data import SPLITS, Dataset, Example, Split, read_dataset
from probes.train.encode import Encoded, Positions, encode_example
from probes.train.failures import data_failures
from probes.train.model import LoadedModel, load_model
from probes.train.progress import Reporter
from probes.train.settings import REFUSAL, Settings, idle_cores
from probes.types import Fingerprint, RoleMarkers

_STAGES = 4  # raise when a stage computes something else than before: kept results are then not reused

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
        encoded: unshifted examples by concept and split, in the dataset's order.
        checkpoints: finished stages of this (model, data).
        reporter: told about progress.
        shifted: shifted test examples by concept and name of the shift, in the dataset's order.
    """

    settings: Settings
    dataset: Dataset
    model: LoadedModel
    fingerprint: Fingerprint
    markers: RoleMarkers
    encoded: Mapping[str, EncodedSplits]
    checkpoints: Checkpoints
    reporter: Reporter
    shifted: Mapping[str, Mapping[str, tuple[Encoded, ...]]] = field(default_factory=dict)

    def activations(
        self, concept: str, split: Split, condition: str = "plain", steering: AbstractContextManager[None] | None = None
    ) -> Activations:
        """Activations of one split; ``condition`` names the steering, and what it depends on."""
        what = f"{concept}: activations, {split}, {_spoken(condition)}"
        examples = self.encoded[concept][split]
        return self.collected(f"{concept}-{split}-{condition}", examples, what=what, steering=steering)

    def collected(
        self,
        name: str,
        examples: Sequence[Encoded],
        *,
        what: str,
        steering: AbstractContextManager[None] | None = None,
        model: LoadedModel | None = None,
        layers: Sequence[int] | None = None,
        positions: Positions = Positions.SCOPE,
    ) -> Activations:
        """Activations of any examples, kept under ``name``.

        Args:
            name: of the folder, its parts joined by ``-``; it must name everything that the other arguments change.
            examples: at least one.
            what: shown to people.
            steering: opened around the forward passes.
            model: another one than the run's (an untrained twin, say).
            layers: 0-based blocks; None takes all.
            positions: which tokens of each example.
        """
        settings = self.settings
        through: Through = settings.through if steering is None and model is None else "transformers"
        folder = self.checkpoints.folder / "activations" / f"{name}-{positions}-{settings.dtype}-{through}"
        return collect(
            model or self.model, examples, folder, self.reporter,
            what=what, steering=steering, layers=layers, positions=positions, dtype=settings.dtype,
            through=through,
        )  # fmt: skip


def _spoken(condition: str) -> str:
    """The name of a condition without the key behind it."""
    return condition.partition("-")[0]


def prepare(settings: Settings, reporter: Reporter) -> Run:
    """Read, check and encode everything, so that what cannot work fails before the work begins."""
    dataset = read_dataset(settings.data)
    for concept, counts in dataset.counts().items():
        parts = ", ".join(f"{split_and_label}: {n}" for split_and_label, n in counts.items())
        reporter.say(f"{concept}: {sum(counts.values())} examples ({parts})")
        for failure in data_failures(concept, dataset.examples[concept]):
            reporter.say(f"warning: {failure.what}: {failure.found}")
    _check_negatives(dataset, settings.fprs)
    fingerprint = fingerprint_model(settings.model)
    torch.set_num_threads(settings.threads or idle_cores())
    model = load_model(settings.model, settings.device)
    markers = find_markers(model.tokenizer)

    def encode(examples: Sequence[Example]) -> tuple[Encoded, ...]:
        return tuple(encode_example(model.tokenizer, markers, e, model.max_tokens) for e in examples)

    concepts = dataset.examples
    encoded = {c: {split: encode(dataset.split(c, split)) for split in SPLITS} for c in concepts}
    shifted = {c: {shift: encode(found) for shift, found in dataset.shifted(c).items()} for c in concepts}
    folder = settings.work / key_of(_STAGES, fingerprint.model_dump(), dataset.digest)
    everything = [e for c in concepts for part in (encoded[c], shifted[c]) for es in part.values() for e in es]
    job = make_job(model, everything, dtype=settings.dtype)
    there = sum(path.stat().st_size for path in folder.glob("activations/*-plain-*/*.safetensors"))
    check_space(folder, job.offsets[-1] * job.row_bytes - there)
    return Run(
        settings, dataset, model, fingerprint, markers, encoded, Checkpoints(folder), reporter, shifted
    )  # fmt: skip


def _check_negatives(dataset: Dataset, fprs: tuple[float, ...]) -> None:
    """Refuse now what calibration would refuse after an hour."""
    for concept in dataset.examples:
        if concept != REFUSAL:
            negatives = [e for e in dataset.split(concept, "validation") if e.label == 0]
            try:
                set_thresholds(np.zeros(len(negatives)), fprs, f"validation split of {concept}")
            except DataError as error:
                raise DataError(f"{concept}: {error}") from None
