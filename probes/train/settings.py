"""What a training run is asked to do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from probes.activations.job import DtypeName
from probes.errors import DataError
from probes.train.collect import Through
from probes.train.estimators.recipes import RECIPES
from probes.train.select import N_SEEDS

REFUSAL = "refusal"
ESTIMATORS = tuple(RECIPES)


@dataclass(frozen=True)
class Settings:
    """One training run.

    Attributes:
        model: Hugging Face folder.
        data: folder of JSONL, see :mod:`probes.train.data`. The concept ``refusal`` (1: should be refused)
            gives the refusal direction; every other concept gives a probe of its name.
        out: folder of the bundle.
        work: folder for activations and finished stages.
        name: of the bundle. version: of the bundle, for people.
        model_name: what the model is called, for people.
        fprs: allowed false-positive rates; thresholds are set for each, and choices go by the first.
        directions: concepts, besides ``refusal``, of which a direction is sought too.
        estimators: to choose among. layers: to choose among; empty: all.
        n_seeds: refits of the finalists, and of the chosen probe.
        untrained: whether to fit the same probe on the model with re-initialised weights, which takes the memory
            of a second model.
        dtype: in which activations are stored. through: what runs the model to collect them.
        seed: of everything random.
        overwrite: replace a bundle at ``out``.
        device: ``cpu`` or ``cuda``; None takes a GPU if there is one.
        threads: CPU threads; None takes as many as there are idle cores.
        note: a sentence for the card, such as what the figures do not mean.

    Raises:
        DataError: an unknown estimator, none that can be served, or fewer than two seeds.
    """

    model: Path
    data: Path
    out: Path
    work: Path
    name: str
    model_name: str
    version: str = "1"
    fprs: tuple[float, ...] = (0.01,)
    directions: tuple[str, ...] = ()
    estimators: tuple[str, ...] = ESTIMATORS
    layers: tuple[int, ...] = ()
    n_seeds: int = N_SEEDS
    untrained: bool = True
    dtype: DtypeName = "fp32"
    through: Through = "transformers"
    seed: int = 0
    overwrite: bool = False
    device: str | None = None
    threads: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.estimators) - set(ESTIMATORS))
        if unknown or not set(self.estimators) - {"multi_head_max"}:
            raise DataError(
                f"estimators {', '.join(self.estimators) or 'none'} were asked for; wanted some of "
                f"{', '.join(ESTIMATORS)}, at least one of them other than multi_head_max, which cannot be served."
            )
        if self.n_seeds < 2:
            raise DataError(f"{self.n_seeds} seed was asked for; wanted at least 2, better 5, to tell luck from skill.")


def idle_cores() -> int:
    """At least 1. Threads beyond the idle cores wait for each other: on a busy machine that is times slower."""
    return max(1, round((os.cpu_count() or 1) - os.getloadavg()[0]))
