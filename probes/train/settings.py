"""What a training run is asked to do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

REFUSAL = "refusal"


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
        fprs: allowed false-positive rates; one threshold is set for each, and choices go by the first.
        seed: of everything random.
        overwrite: replace a bundle at ``out``.
        device: ``cpu`` or ``cuda``; None takes a GPU if there is one.
        threads: CPU threads; None takes as many as there are idle cores.
        note: a sentence for the card, such as what the figures do not mean.
    """

    model: Path
    data: Path
    out: Path
    work: Path
    name: str
    model_name: str
    version: str = "1"
    fprs: tuple[float, ...] = (0.01,)
    seed: int = 0
    overwrite: bool = False
    device: str | None = None
    threads: int | None = None
    note: str = ""


def idle_cores() -> int:
    """At least 1. Threads beyond the idle cores wait for each other: on a busy machine that is times slower."""
    return max(1, round((os.cpu_count() or 1) - os.getloadavg()[0]))
