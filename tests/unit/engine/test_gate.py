"""The gate gives the same trips and folds however the scheduler cuts a request into steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monitor.engine.gate import Chunk, Gate
from monitor.policy.plan import DetectorPlan, GatePlan
from monitor.types import Action, Operator, Steering
from probes.types import FoldKind, FoldSpec, Manifest, ModelInfo, RoleMarkers, Scope
from tests.support.tiny import FINGERPRINT, make_probe

USER = 4
PROBES = (
    make_probe("intent", 1, FoldSpec(kind=FoldKind.MAX), Scope.LAST_USER, 0.0),
    make_probe("deceit", 2, FoldSpec(kind=FoldKind.MEAN, min_tokens=2), Scope.RESPONSE, 0.0),
    make_probe("smooth", 2, FoldSpec(kind=FoldKind.EMA_MAX), Scope.ALL, 0.0),
)
NAMES = tuple(p.name for p in PROBES)
MANIFEST = Manifest(
    name="t", version="1", created="", probes=PROBES, directions=(),
    model=ModelInfo(name="t", architecture="t", n_layers=4, d_model=8, fingerprint=FINGERPRINT,
                    markers=RoleMarkers(user=(USER,))),
)  # fmt: skip
PROMPT = [1, USER, 9, 9, USER, 8, 8, 8]

score = st.one_of(st.just(math.nan), st.floats(-5, 5))
sequences = st.lists(st.tuples(score, score, score), min_size=len(PROMPT) + 1, max_size=40)
cuts = st.lists(st.integers(1, 12), min_size=40, max_size=40)
thresholds = st.tuples(*[st.floats(-3, 3)] * 3)


def plan(values=(0.0, 0.0, 0.0), action: Action = Action.FLAG, *, enforce: bool = True) -> GatePlan:
    rules = tuple(DetectorPlan(f"r-{n}", n, v, action) for n, v in zip(NAMES, values, strict=True))
    return GatePlan("id", "p", "1", "b", 0.0, enforce=enforce, hold=False, n=1, detectors=rules)


def run(rows, lengths, values, others: int = 0):
    """Feed ``rows`` in steps of these lengths, beside other requests in the same steps; the state at the end."""
    gate = Gate(MANIFEST, NAMES, capacity=2)
    state = gate.open(plan(values), 0, PROMPT, MANIFEST.model.markers)
    crowd = [gate.open(plan(values), 0, PROMPT, MANIFEST.model.markers) for _ in range(others)]
    scores, start = torch.tensor(rows, dtype=torch.float32), 0
    for length in lengths:
        piece = scores[start : start + length]
        if len(piece):
            gate.fold([Chunk(state, piece), *(Chunk(c, torch.randn_like(piece)) for c in crowd)])
        start += length
    return state


def naive(rows, values):
    """Folded score and trip position of each rule, written with loops."""
    found = []
    for column, (probe, threshold) in enumerate(zip(PROBES, values, strict=True)):
        first = {Scope.LAST_USER: 5, Scope.RESPONSE: len(PROMPT), Scope.ALL: 0}[probe.scope]
        end = len(PROMPT) if probe.scope is Scope.LAST_USER else len(rows)
        seen, ema, folded, trip = [], None, None, None
        for position, row in enumerate(rows):
            value = float(torch.tensor(row[column], dtype=torch.float32))
            if first <= position < end and not math.isnan(value):
                seen.append(value)
                ema = value if ema is None else 0.3 * value + 0.7 * ema
                now = {"max": max(seen), "mean": sum(seen) / len(seen), "ema_max": ema}[probe.fold.kind]
                folded = max(now, folded) if probe.fold.kind == "ema_max" and folded is not None else now
            decides = {
                Scope.LAST_USER: position == len(PROMPT) - 1,
                Scope.RESPONSE: position >= len(PROMPT),
                Scope.ALL: position >= len(PROMPT) - 1,
            }[probe.scope]
            enough = len(seen) >= probe.fold.min_tokens
            if trip is None and decides and enough and folded is not None and folded >= threshold:
                trip = position
        found.append((folded if len(seen) >= probe.fold.min_tokens else None, trip))
    return found


@given(sequences, cuts, thresholds)
def test_any_schedule_gives_the_folds_and_trips_of_the_definition(rows, lengths, values):
    state = run(rows, lengths, values)
    for detector, (folded, trip), threshold in zip(state.detectors, naive(rows, values), values, strict=True):
        assert detector.score == (None if folded is None else pytest.approx(folded, abs=1e-5))
        close = folded is not None and abs(folded - threshold) < 1e-4
        assert close or detector.trip_position == trip


@given(sequences, cuts, thresholds)
def test_other_requests_in_the_step_change_nothing(rows, lengths, values):
    alone, crowded = run(rows, lengths, values), run(rows, lengths, values, others=3)
    assert [d.state() for d in alone.detectors] == [d.state() for d in crowded.detectors]


@given(sequences, cuts)
def test_every_position_is_counted_as_seen_and_those_without_a_nan_as_scored(rows, lengths):
    state = run(rows, lengths, (9.0, 9.0, 9.0))
    n = min(len(rows), sum(lengths))
    assert state.position == n
    assert state.scored == sum(not any(math.isnan(v) for v in row) for row in rows[:n])


def test_a_stop_is_carried_out_only_when_the_plan_enforces():
    for enforce in (True, False):
        gate = Gate(MANIFEST, NAMES, capacity=1)
        state = gate.open(plan((0.0, 99.0, 99.0), Action.STOP, enforce=enforce), 0, PROMPT, MANIFEST.model.markers)
        gate.fold([Chunk(state, torch.ones(len(PROMPT), 3))])
        assert state.detectors[0].trip_position == len(PROMPT) - 1
        assert state.stopped == ("r-intent" if enforce else None)


def test_a_rule_that_steers_adds_its_steering_once():
    steering = (Steering("refusal", Operator.ADD, 1.0),)
    rule = DetectorPlan("r", "intent", 0.0, Action.STEER, steering=steering)
    gate = Gate(MANIFEST, NAMES, capacity=1)
    one = GatePlan("id", "p", "1", "b", 0.0, enforce=True, hold=False, n=1, detectors=(rule,))
    state = gate.open(one, 0, PROMPT, MANIFEST.model.markers)
    for piece in torch.ones(len(PROMPT) + 5, 3).split(4):
        gate.fold([Chunk(state, piece)])
    after = 8  # the trip is at the prompt's end, in the second step of four tokens
    assert [state.steering_at(at) for at in (0, after - 1, after, after + 4)] == [(), (), steering, steering]
    pieces = [at for first, last in state.stretches(2, 13) for at in range(first, last)]
    assert pieces == list(range(2, 13))
    for first, last in state.stretches(2, 13):
        assert {state.steering_at(at) for at in range(first, last)} == {state.steering_at(first)}


def test_kept_rows_without_a_score_are_counted_as_cache_misses():
    gate = Gate(MANIFEST, NAMES, capacity=1)
    state = gate.open(plan(), 0, PROMPT, MANIFEST.model.markers)
    rows = torch.ones(len(PROMPT), 3)
    rows[1:4] = math.nan
    gate.fold([Chunk(state, rows, n_kept=3)])
    assert (state.cache_misses, state.scored) == (2, len(PROMPT) - 3)


def test_slots_are_reused_clean():
    gate = Gate(MANIFEST, NAMES, capacity=1)
    for value in (3.0, 1.0):
        state = gate.open(plan(), 0, PROMPT, MANIFEST.model.markers)
        gate.fold([Chunk(state, torch.full((len(PROMPT), 3), value))])
        assert state.detectors[0].score == value
        gate.close(state)
