"""One ``plumbline serve`` on the organism, shared by all tests that do not break it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openai
import pytest

from probes.bundle import direction_tensor, read_bundle, write_bundle
from probes.organism.demo import demo_prompts
from tests.support.serve import BUNDLE, POLICY, Served, serve_organism

PROMPTS = demo_prompts()
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


@pytest.fixture(scope="module")
def client(served: Served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def chat(client: openai.OpenAI, prompt: str, guard: dict | None = None, **options):
    return client.chat.completions.create(
        model="organism", messages=list(PROMPTS[prompt].messages), temperature=0, max_tokens=32,
        extra_body={"guard": guard} if guard else None, **options,
    )  # fmt: skip
