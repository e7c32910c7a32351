"""The gate gives the same trips and folds however the scheduler cuts a request into steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.engine.gate import Gate
from monitor.engine.request import FollowedRequest, follow
from monitor.policy.plan import DetectorPlan, GatePlan
from monitor.types import Action, Operator, Steering, SteeringScope
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


def open_request(gate: Gate, a_plan: GatePlan, slot: int = 0) -> FollowedRequest:
    request = follow(a_plan, "digest", 0, len(PROMPT), slot, gate.probes)
    gate.open(request, PROMPT)
    return request


def feed(gate: Gate, *pieces: tuple[FollowedRequest, object], begin: int | None = None) -> list[FollowedRequest]:
    """Fold the next positions of some requests in one step; ``begin`` is where a triggered steering may set in."""
    slots, positions, rows = [], [], []
    begins = np.zeros(len(gate.position), dtype=np.int64)
    for request, piece in pieces:
        scores = np.asarray(piece, dtype=np.float32).reshape(-1, 3)
        first = int(gate.position[request.slot])
        slots += [request.slot] * len(scores)
        positions += range(first, first + len(scores))
        rows.append(scores)
        begins[request.slot] = first + len(scores) if begin is None else begin
    return gate.fold(
        np.array(slots, dtype=np.int64), np.array(positions, dtype=np.int64), np.concatenate(rows),
        {request.slot: request for request, _ in pieces}, begins,
    )  # fmt: skip


def run(rows, lengths, values, others: int = 0):
    """Feed ``rows`` in steps of these lengths, beside other requests in the same steps; gate and request at the end."""
    gate = Gate(MANIFEST, NAMES, capacity=2)
    request = open_request(gate, plan(values), others)
    crowd = [open_request(gate, plan(values), slot) for slot in range(others)]
    scores, start, noise = np.array(rows, dtype=np.float32), 0, np.random.default_rng(0)
    for length in lengths:
        piece = scores[start : start + length]
        feed(gate, *((other, noise.normal(size=piece.shape)) for other in crowd), (request, piece))
        start += length
    return gate, request


def outcome(gate: Gate, request: FollowedRequest):
    """Folded score, trip position and trip score of each rule."""
    folded = [None if math.isnan(v) else v for v in gate.folded[request.slot].tolist()]
    return [(folded[d.probe], d.trip_position, d.trip_score) for d in request.detectors]


def naive(rows, values):
    """Folded score and trip position of each rule, written with loops."""
    found = []
    for column, (probe, threshold) in enumerate(zip(PROBES, values, strict=True)):
        first = {Scope.LAST_USER: 5, Scope.RESPONSE: len(PROMPT), Scope.ALL: 0}[probe.scope]
        end = len(PROMPT) if probe.scope is Scope.LAST_USER else len(rows)
        seen, ema, folded, trip = [], None, None, None
        for position, row in enumerate(rows):
            value = float(np.float32(row[column]))
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
    found = outcome(*run(rows, lengths, values))
    for (score, position, _), (folded, trip), threshold in zip(found, naive(rows, values), values, strict=True):
        assert score == (None if folded is None else pytest.approx(folded, abs=1e-5))
        close = folded is not None and abs(folded - threshold) < 1e-4
        assert close or position == trip


@given(sequences, cuts, thresholds)
def test_other_requests_in_the_step_change_nothing(rows, lengths, values):
    assert outcome(*run(rows, lengths, values)) == outcome(*run(rows, lengths, values, others=3))


@given(sequences, cuts)
def test_every_position_is_counted_as_seen_and_those_without_a_nan_as_scored(rows, lengths):
    gate, request = run(rows, lengths, (9.0, 9.0, 9.0))
    n = min(len(rows), sum(lengths))
    assert gate.position[request.slot] == n
    assert gate.scored[request.slot] == sum(not any(math.isnan(v) for v in row) for row in rows[:n])


@pytest.mark.parametrize("action", [Action.STOP, Action.REPLACE])
def test_a_stop_is_carried_out_only_when_the_plan_enforces(action):
    for enforce in (True, False):
        gate = Gate(MANIFEST, NAMES, capacity=1)
        request = open_request(gate, plan((0.0, 99.0, 99.0), action, enforce=enforce))
        feed(gate, (request, np.ones((len(PROMPT), 3))))
        assert request.detectors[0].trip_position == len(PROMPT) - 1
        assert request.stopped == ("r-intent" if enforce else None)


def test_a_rule_that_steers_adds_its_steering_once_from_the_next_pass_on():
    steering = (Steering("refusal", Operator.ADD, 1.0),)
    rule = DetectorPlan("r", "intent", 0.0, Action.STEER, steering=steering)
    gate = Gate(MANIFEST, NAMES, capacity=1)
    request = open_request(gate, GatePlan("id", "p", "1", "b", 0.0, enforce=True, hold=False, n=1, detectors=(rule,)))
    for piece in np.array_split(np.ones((12, 3)), 3):
        feed(gate, (request, piece))
    after = 8  # the trip is at the prompt's end, in the second step of four tokens
    assert [request.steering_at(at)[0] for at in (0, after - 1, after, after + 4)] == [(), (), steering, steering]


def test_a_rule_that_trips_while_the_next_pass_is_on_its_way_steers_from_the_one_after():
    rule = DetectorPlan("r", "intent", 0.0, Action.STEER, steering=(Steering("refusal", Operator.ADD),))
    gate = Gate(MANIFEST, NAMES, capacity=1)
    request = open_request(gate, GatePlan("id", "p", "1", "b", 0.0, enforce=True, hold=False, n=1, detectors=(rule,)))
    assert feed(gate, (request, np.ones((len(PROMPT), 3))), begin=len(PROMPT) + 1) == [request]
    assert [bool(request.steering_at(len(PROMPT) + i)[0]) for i in (0, 1)] == [False, True]


def test_rows_that_were_folded_already_or_come_too_early_are_passed_over():
    gate = Gate(MANIFEST, NAMES, capacity=1)
    request = open_request(gate, plan())
    feed(gate, (request, np.ones((4, 3))))
    before = gate.folded[0].copy()
    rows, zero = np.full((3, 3), 9.0, dtype=np.float32), np.zeros(3, dtype=np.int64)
    gate.fold(zero, np.array([2, 3, 6]), rows, {0: request}, zero)
    assert gate.position[0] == 4
    assert np.array_equal(gate.folded[0], before, equal_nan=True)


def test_two_rules_on_one_probe_trip_each_at_its_own_threshold():
    rules = tuple(DetectorPlan(f"r{t}", "smooth", t, Action.FLAG) for t in (2.0, 0.5, 1.0))
    gate = Gate(MANIFEST, NAMES, capacity=1)
    request = open_request(gate, GatePlan("id", "p", "1", "b", 0.0, enforce=True, hold=False, n=1, detectors=rules))
    feed(gate, (request, np.zeros((len(PROMPT), 3))))
    feed(gate, (request, [[0, 0, 3.0], [0, 0, 3.0]]))
    feed(gate, (request, [[0, 0, 3.0]] * 4))
    n = len(PROMPT)
    assert [d.trip_position for d in request.detectors] == [n + 3, n, n + 1]  # 0.9, 1.53, 1.97, 2.28


def test_slots_are_reused_clean_and_more_requests_than_expected_find_room():
    gate = Gate(MANIFEST, NAMES, capacity=1)
    for slot, value in ((0, 3.0), (0, 1.0), (5, 2.0)):
        request = open_request(gate, plan(), slot)
        feed(gate, (request, np.full((len(PROMPT), 3), value)))
        assert outcome(gate, request)[0][0] == value


steerings = st.lists(
    st.builds(
        Steering, direction=st.sampled_from(["a", "b"]), operator=st.sampled_from(list(Operator)),
        strength=st.floats(0.1, 2), scope=st.sampled_from(list(SteeringScope)), start=st.integers(0, 6),
        half_life=st.one_of(st.none(), st.floats(0.5, 8)),
    ),
    max_size=3,
)  # fmt: skip


@given(steerings)
def test_what_steers_a_position_holds_until_it_is_said_to_change(some):
    request = follow(
        GatePlan("id", "p", "1", "b", 0.0, enforce=True, hold=False, n=1, detectors=(), steering=tuple(some)),
        "digest", 0, len(PROMPT), 0, NAMES,
    )  # fmt: skip
    position = 0
    while position < 25:
        active, until = request.steering_at(position)
        assert until > position
        assert all(request.steering_at(at)[0] == active for at in range(position, min(until, 25)))
        position = until
    for position in range(20):
        for steering in some:
            first = steering.start + (len(PROMPT) if steering.scope is SteeringScope.RESPONSE else 0)
            ended = steering.scope is SteeringScope.PROMPT and position >= len(PROMPT)
            left = 0.5 ** ((position - first) / steering.half_life) if steering.half_life is not None else 1.0
            wanted = steering.strength * left if position >= first and not ended else None
            mine = [s.strength for s in request.steering_at(position)[0] if s.direction == steering.direction]
            assert wanted is None or any(strength == pytest.approx(wanted) for strength in mine)
            assert len(mine) <= sum(s.direction == steering.direction for s in some)
