"""One concept's examples as a model sees them, and their activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probes.errors import DataError
from probes.template import find_markers
from probes.train.checkpoint import key_of
from probes.train.collect import Activations, collect
from probes.train.data import SPLITS, Dataset, Example, Split
from probes.train.encode import Encoded, encode_example
from probes.train.evaluation.intervals import clusters
from probes.train.families import group_of
from probes.train.metrics import Labels
from probes.train.model import LoadedModel
from probes.train.progress import Reporter


@dataclass(frozen=True)
class Part:
    """One split of one concept.

    Attributes:
        examples: labelled conversations. encoded: the same ones as token ids.
    """

    examples: tuple[Example, ...]
    encoded: tuple[Encoded, ...]

    @property
    def labels(self) -> Labels:
        """``(n_examples,)`` int64."""
        return np.array([e.label for e in self.examples], dtype=np.int64)

    @property
    def families(self) -> tuple[str, ...]:
        """Source and template family of each example."""
        return tuple("/".join(group_of(e)) for e in self.examples)

    @property
    def clusters(self) -> Labels | None:
        """The family's number of each example where intervals draw whole families; None where they draw examples."""
        return clusters(self.families, self.labels)

    def take(self, chosen: Sequence[int]) -> Part:
        """Those of these indices."""
        return Part(tuple(self.examples[i] for i in chosen), tuple(self.encoded[i] for i in chosen))


@dataclass(frozen=True)
class Material:
    """What a study of one concept works on.

    Attributes:
        concept: its name.
        parts: unshifted examples by split.
        folder: for activations.
        reporter: told about progress.
    """

    concept: str
    parts: Mapping[Split, Part]
    folder: Path
    reporter: Reporter

    def activations(self, model: LoadedModel, split: Split, layers: Sequence[int], name: str = "model") -> Activations:
        """Activations of one split's tokens in scope; ``name`` tells models apart that are used in one study."""
        encoded = self.parts[split].encoded
        key = key_of(layers, [e.ids for e in encoded])
        return collect(
            model, encoded, self.folder / f"{self.concept}-{split}-{name}-{key}", self.reporter,
            what=f"{self.concept}: activations, {split}, {name}", layers=layers,
        )  # fmt: skip


def read_material(
    dataset: Dataset,
    concept: str,
    model: LoadedModel,
    folder: Path,
    reporter: Reporter,
    *,
    most: int | None = None,
    seed: int = 0,
) -> Material:
    """Encode one concept's examples.

    Args:
        dataset: that was read.
        concept: one of its concepts.
        model: whose tokenizer and template are used.
        folder: for activations; one for each model that ``model`` may be.
        reporter: told about progress.
        most: examples of each split and label at most, drawn at random; None takes all.
        seed: of the draw.

    Raises:
        DataError: no such concept, or an example that the model does not take.
    """
    if concept not in dataset.examples:
        raise DataError(f"no examples of {concept!r}; the data has {', '.join(dataset.examples)}.")
    markers = find_markers(model.tokenizer)
    parts = {}
    for split in SPLITS:
        examples = _at_most(dataset.split(concept, split), most, seed)
        encoded = (encode_example(model.tokenizer, markers, e, model.max_tokens) for e in examples)
        parts[split] = Part(tuple(examples), tuple(encoded))
    return Material(concept, parts, folder, reporter)


def _at_most(examples: Sequence[Example], most: int | None, seed: int) -> list[Example]:
    """At most so many of each label, in order."""
    if most is None:
        return list(examples)
    rng = np.random.default_rng(seed)
    kept: set[int] = set()
    for label in (0, 1):
        mine = [i for i, e in enumerate(examples) if e.label == label]
        kept.update(rng.permutation(mine)[:most].tolist())
    return [e for i, e in enumerate(examples) if i in kept]
