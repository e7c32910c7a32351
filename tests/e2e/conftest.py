"""One ``plumbline serve`` on the organism, shared by all tests that do not break it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from probes.bundle import direction_tensor, read_bundle, write_bundle
from tests.support.serve import BUNDLE, POLICY, Served, serve_organism

# Behind those of the demonstration.
POLICIES = """
  - name: polite
    rules:
      - {name: harm, probe: harmful_intent, action: replace, text: I would rather not say .}
      - {name: lying, probe: deception, action: replace, text: "[withheld]"}
    callers: {may_select: true}
  - name: loaded
    callers:
      may_select: true
      may_steer: [{direction: "extra:copy", operators: [ablate, add], max_strength: 1}]
"""


@dataclass(frozen=True)
class Files:
    """What the shared service was started with, and reads again when told to."""

    policy: Path
    directions: Path


def write_direction(path: Path, name: str, vector: np.ndarray | None = None) -> None:
    """A bundle of one direction for the organism: its refusal direction under another name, or ``vector`` instead."""
    bundle = read_bundle(BUNDLE)
    (refusal,) = bundle.manifest.directions
    directions = (refusal.model_copy(update={"name": name}),)
    manifest = bundle.manifest.model_copy(update={"probes": (), "directions": directions})
    unit = bundle.direction_vector("refusal") if vector is None else vector / np.linalg.norm(vector)
    write_bundle(path, manifest, {direction_tensor(name): unit.astype(np.float32)}, overwrite=True)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    made = Files(folder / "policy.yaml", folder / "directions")
    made.policy.write_text(POLICY.read_text() + POLICIES)
    write_direction(made.directions / "extra", "copy")
    return made


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("serve") / "log"
    running = serve_organism(log, "--directions", str(files.directions), policy=files.policy)
    try:
        yield running.wait_ready()
    finally:
        running.stop()
