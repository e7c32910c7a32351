"""A bundle's manifest and a policy file for tests, made by hand."""

from pathlib import Path
from typing import Any

import numpy as np

from monitor.policy.steering import Names
from probes.bundle import Bundle, direction_tensor, write_bundle
from probes.types import (
    Calibration,
    Direction,
    Fingerprint,
    FoldKind,
    FoldSpec,
    Histogram,
    Manifest,
    ModelInfo,
    Probe,
    RoleMarkers,
    Scope,
    Threshold,
)

DIGEST = "d" * 64
KEY = bytes(range(32))


def probe(name: str, scope: Scope) -> Probe:
    return Probe(
        name=name,
        concept=name,
        layer=2,
        bias=0.0,
        fold=FoldSpec(kind=FoldKind.MAX),
        scope=scope,
        thresholds=(
            Threshold(value=2.0, fpr=0.01, measured_fpr=0.005, n_negatives=1000, data="validation"),
            Threshold(value=1.0, fpr=0.05, measured_fpr=0.04, n_negatives=1000, data="validation"),
        ),
        calibration=Calibration(slope=1.0, intercept=0.0),
        reference=Histogram(edges=(-1.0, 1.0), counts=(10,)),
    )


def direction(name: str, layer: int = 3) -> Direction:
    return Direction(name=name, concept=name, layer=layer, magnitude=2.0, position="last")


def write_directions(path: Path, *directions: Direction, seed: int = 0, **changes: Any) -> Bundle:
    """A bundle without probes for the model of :data:`MANIFEST`; ``changes`` to its model's fields."""
    rng = np.random.default_rng(seed)
    model = MANIFEST.model.model_copy(update=changes)
    manifest = MANIFEST.model_copy(update={"model": model, "probes": (), "directions": directions})
    vectors = {direction_tensor(d.name): rng.normal(size=model.d_model) for d in directions}
    unit = {name: (v / np.linalg.norm(v)).astype(np.float32) for name, v in vectors.items()}
    return write_bundle(path, manifest, unit, overwrite=True)


MANIFEST = Manifest(
    name="organism",
    version="1",
    created="2026-01-01",
    model=ModelInfo(
        name="organism",
        architecture="LlamaForCausalLM",
        n_layers=6,
        d_model=192,
        fingerprint=Fingerprint(config="a", tokenizer="b", chat_template="c", weights="d"),
        markers=RoleMarkers(),
    ),
    probes=(probe("harmful_intent", Scope.PROMPT), probe("deception", Scope.ALL)),
    directions=(direction("refusal"), direction("honesty")),
)
NAMES = Names.of(MANIFEST)
PROBES = tuple(p.name for p in MANIFEST.probes)

POLICY = """
version: 1
default: standard
policies:
  - name: standard
    rules:
      - {name: harm, probe: harmful_intent, action: stop}
      - {name: lie, probe: deception, action: stop, fpr: 0.05}
    callers:
      may_steer:
        - {direction: refusal, operators: [add, ablate], max_strength: 2.0}
  - name: live
    callers: {may_select: true}
    release: live
    rules:
      - {name: lie, probe: deception, action: stop}
  - name: open
    callers: {may_select: true}
    on_unscored: allow
    rules:
      - {name: lie, probe: deception, action: stop}
  - name: live-open
    callers: {may_select: true}
    release: live
    on_unscored: allow
    rules:
      - {name: lie, probe: deception, action: stop}
  - name: watching
    callers: {may_select: true}
    mode: observe
    rules:
      - {name: harm, probe: harmful_intent, action: stop}
      - {name: lie, probe: deception, action: stop}
  - name: steering
    callers: {may_select: true, may_send_raw_prompts: true}
    rules:
      - name: nudge
        probe: harmful_intent
        action: steer
        steering: [{direction: refusal, operator: add}]
  - name: replacing
    callers: {may_select: true}
    rules:
      - {name: harm, probe: harmful_intent, action: replace, text: "I would rather not."}
      - {name: lie, probe: deception, action: replace, text: "[cut]", fpr: 0.05}
  - name: replacing-live
    callers: {may_select: true}
    release: live
    rules:
      - {name: harm, probe: harmful_intent, action: replace, text: "I would rather not."}
      - {name: lie, probe: deception, action: replace, text: "[cut]", fpr: 0.05}
  - name: replacing-or-not
    callers: {may_select: true}
    rules:
      - {name: harm, probe: harmful_intent, action: stop}
      - {name: lie, probe: deception, action: replace, text: "[cut]"}
  - name: would-replace
    callers: {may_select: true}
    mode: observe
    rules:
      - {name: lie, probe: deception, action: replace, text: "[cut]"}
  - name: internal
    callers: {may_select: false, may_add_probes: false}
"""
