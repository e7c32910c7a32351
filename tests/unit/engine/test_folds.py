"""The compiled fold of the engine against the reference in PyTorch, however tokens come in."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.engine.gate import Gate
from monitor.engine.instrument import QUERY
from monitor.engine.request import follow
from monitor.policy.plan import DetectorPlan, GatePlan
from monitor.types import Action
from probes.fold import fold_sequence
from probes.types import FoldKind, FoldSpec, Manifest, ModelInfo, RoleMarkers, Scope
from tests.support.tiny import FINGERPRINT, make_probe

N_REQUESTS = 3
SPECS = st.lists(
    st.builds(
        FoldSpec, kind=st.sampled_from(FoldKind), alpha=st.floats(0.05, 1.0), window=st.integers(1, 9),
        temperature=st.floats(0.5, 20), drift=st.floats(-5, 5), min_tokens=st.integers(1, 5),
    ),
    min_size=1, max_size=9,
)  # fmt: skip


def make_gate(specs: list[FoldSpec], capacity: int = 1) -> Gate:
    probes = tuple(make_probe(f"p{i}", 0, spec, Scope.ALL, 0.0) for i, spec in enumerate(specs))
    model = ModelInfo(name="t", architecture="t", n_layers=1, d_model=8, fingerprint=FINGERPRINT, markers=RoleMarkers())
    queries = tuple(p.name + QUERY for p in probes if p.fold.kind is FoldKind.ATTENTION)
    manifest = Manifest(name="t", version="1", created="", probes=probes, directions=(), model=model)
    return Gate(manifest, (*(p.name for p in probes), *queries), capacity)


def numbers(rng: np.random.Generator, shape: tuple[int, ...], size: float, unscored: float) -> np.ndarray:
    """fp32 logits up to ``size``, a share of them NaN, and some columns NaN throughout."""
    found = rng.uniform(-size, size, shape).astype(np.float32)
    found[rng.random(shape) < unscored] = np.nan
    found[:, rng.random(shape[1]) < 0.1] = np.nan
    return found


def reference(specs: list[FoldSpec], scores: np.ndarray) -> np.ndarray:
    """``(n_tokens, n_probes)`` of one request, all tokens at once; queries are the last columns."""
    columns, query = [], len(specs)
    for i, spec in enumerate(specs):
        queries = None
        if spec.kind is FoldKind.ATTENTION:
            queries, query = torch.from_numpy(scores[:, query].copy()), query + 1
        columns.append(fold_sequence(spec, torch.from_numpy(scores[:, i].copy()), queries).numpy())
    return np.stack(columns, axis=1)


@given(SPECS, st.integers(0, 2**32), st.sampled_from([1.0, 20.0, 1e4]), st.sampled_from([0.0, 0.3, 0.9]), st.data())
@settings(max_examples=60)
def test_any_mixture_of_single_tokens_and_chunks_gives_the_numbers_of_the_reference(specs, seed, size, unscored, data):
    rng = np.random.default_rng(seed)
    gate = make_gate(specs)
    n_columns = len(specs) + sum(s.kind is FoldKind.ATTENTION for s in specs)
    rules = tuple(DetectorPlan(f"r{i}", f"p{i}", 1e30, Action.FLAG) for i in range(len(specs)))
    plan = GatePlan("id", "p", "1", "b", 0.0, enforce=True, hold=False, n=1, detectors=rules)
    requests = {slot: follow(plan, "d", 0, 1, slot, gate.probes) for slot in range(N_REQUESTS)}
    scores, wanted = {}, {}
    for slot, request in requests.items():
        gate.open(request, [7])
        scores[slot] = numbers(rng, (data.draw(st.integers(1, 30)), n_columns), size, unscored)
        wanted[slot] = reference(specs, scores[slot])
    begins = np.zeros(len(gate.position), dtype=np.int64)
    while waiting := [s for s in requests if gate.position[s] < len(scores[s])]:
        slots, positions = [], []
        for slot in data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True)):
            first = int(gate.position[slot])
            stop = min(len(scores[slot]), first + data.draw(st.sampled_from([1, 1, 1, 2, 7])))
            slots += [slot] * (stop - first)
            positions += range(first, stop)
        rows = np.stack([scores[s][p] for s, p in zip(slots, positions, strict=True)])
        gate.fold(np.array(slots), np.array(positions), rows, requests, begins)
        for slot in set(slots):
            got, truth = gate.folded[slot], wanted[slot][gate.position[slot] - 1]
            assert np.array_equal(np.isnan(got), np.isnan(truth))
            assert np.allclose(got, truth, rtol=1e-9, atol=1e-9 * size, equal_nan=True)


def test_a_token_without_a_score_leaves_every_kind_as_it_was():
    specs = [FoldSpec(kind=kind, window=3, min_tokens=2) for kind in FoldKind]
    gate = make_gate(specs)
    rules = tuple(DetectorPlan(f"r{i}", f"p{i}", 1e30, Action.FLAG) for i in range(len(specs)))
    request = follow(
        GatePlan("id", "p", "1", "b", 0.0, enforce=True, hold=False, n=1, detectors=rules), "d", 0, 1, 0, gate.probes
    )
    gate.open(request, [7])
    rng, zero = np.random.default_rng(0), np.zeros(1, dtype=np.int64)
    for position in range(8):
        row = rng.normal(size=(1, len(specs) + 1)).astype(np.float32)
        before = gate.folded[0].copy()
        if position in (3, 5):
            row[:] = np.nan
        gate.fold(zero, np.array([position]), row, {0: request}, zero)
        same = np.array_equal(gate.folded[0], before, equal_nan=True)
        assert same == (position in (0, 3, 5))  # after the first token there are fewer than min_tokens
    assert gate.scored[0] == 6
