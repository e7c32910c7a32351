"""The formulas of the operators, and the table that says which token gets which."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.engine.ledger import StepRows
from monitor.engine.lines import Lines
from monitor.engine.request import follow
from monitor.engine.steer import SteeringTable
from monitor.errors import PlanError
from monitor.policy.plan import GatePlan
from monitor.types import Condition, Operator, Steering, SteeringScope
from probes.bundle import Bundle
from tests.support.tiny import random_bundle

D, LAYERS, TOKENS = 8, 4, 6
HERE = 2  # the layer of "refusal"; "other" is at layer 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "b", d_model=D, n_layers=LAYERS)


class Rig:
    """A table, and the ops called as the wrapped layers call them."""

    def __init__(self, bundle: Bundle, n_spare: int = 0) -> None:
        self.bundle = bundle
        self.columns = [p.name for p in bundle.manifest.probes]
        self.scores = torch.randn(TOKENS, len(self.columns), generator=torch.Generator().manual_seed(1))
        self.table = SteeringTable(bundle, self.columns, self.scores, n_spare=n_spare)

    def set(self, per_token: list[tuple[Steering, ...]]) -> None:
        lines = [self.table.line(s) for s in per_token]
        rows = np.array([i for i, s in enumerate(per_token) if s], dtype=np.int64)
        fields = np.stack([line.fields for line in lines])[rows]
        self.table.fill(len(per_token), rows, fields, np.any([line.needs for line in lines], axis=0))

    def output(self, layer: int, stream: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        out, change = stream.clone(), self.table.at_output(layer)
        if other is None:
            change(out, None)
        else:
            change(other, out)
        return out

    def write(self, write: torch.Tensor) -> torch.Tensor:
        out = write.clone()
        self.table.at_write()(out)
        return out

    def unit(self, name: str) -> np.ndarray:
        return self.bundle.direction_vector(name).astype(np.float64)


def by_definition(
    rig: Rig, layer: int, h: np.ndarray, scores: np.ndarray, steering: tuple[Steering, ...]
) -> np.ndarray:
    """One token's output, written with loops over the definition: ablate_output, clamp, add."""
    h = h.astype(np.float64).copy()
    directions = rig.bundle.manifest.directions
    for d in directions:
        v = rig.unit(d.name)
        kept = np.prod(
            [1 - s.strength for s in steering if s.operator is Operator.ABLATE_OUTPUT and s.direction == d.name]
        )
        h -= (1 - kept) * (h @ v) * v
    for d in directions:
        for s in [s for s in steering if s.operator is Operator.CLAMP and s.direction == d.name and d.layer == layer][
            -1:
        ]:
            v, p = rig.unit(d.name), h @ rig.unit(d.name)
            low = -np.inf if s.low is None else s.low * d.magnitude
            high = np.inf if s.high is None else s.high * d.magnitude
            h += factor(rig, scores, s) * s.strength * (np.clip(p, low, high) - p) * v
    for d in directions:
        for s in [s for s in steering if s.operator is Operator.ADD and s.direction == d.name and d.layer == layer]:
            h += factor(rig, scores, s) * s.strength * d.magnitude * rig.unit(d.name)
    return h


def factor(rig: Rig, scores: np.ndarray, steering: Steering) -> float:
    if steering.when is None:
        return 1.0
    score = float(scores[rig.columns.index(steering.when.probe)])
    if np.isnan(score):
        return 1.0
    return 1 / (1 + np.exp(-steering.when.sharpness * (score - steering.when.threshold)))


conditions = st.one_of(st.none(), st.builds(Condition, probe=st.sampled_from(["first", "intent"]),
                                            threshold=st.floats(-1, 1), sharpness=st.floats(0.5, 20)))  # fmt: skip


@st.composite
def steerings(draw):
    """At most one of each operator and direction, as the table holds them."""
    chosen = []
    for direction in ("refusal", "other"):
        for operator in draw(st.sets(st.sampled_from(list(Operator)))):
            strength, when = draw(st.floats(0.1, 1.0)), draw(conditions)
            if operator is Operator.CLAMP:
                low = draw(st.floats(-1, 0.5))
                chosen.append(Steering(direction, operator, strength, low=low, high=low + 0.3, when=when))
            elif operator is Operator.ADD:
                chosen.append(Steering(direction, operator, strength, when=when))
            else:
                chosen.append(Steering(direction, operator, strength))
    return tuple(chosen)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steerings(), min_size=TOKENS, max_size=TOKENS), st.integers(0, LAYERS - 1), st.booleans())
def test_every_token_of_a_mixed_batch_is_changed_as_the_formulas_say(bundle, per_token, layer, split):
    rig = Rig(bundle)
    rig.scores[3, :] = torch.nan
    rig.set(per_token)
    stream = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(2)) * 3
    other = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(3)) if split else None
    whole = stream if other is None else stream + other
    got = rig.output(layer, stream, other) + (0 if other is None else other)
    for i, steering in enumerate(per_token):
        wanted = by_definition(rig, layer, whole[i].numpy(), rig.scores[i].numpy(), steering)
        assert got[i].numpy() == pytest.approx(wanted, abs=2e-5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.sampled_from(["refusal", "other"]), st.floats(0.1, 1)), max_size=3),
                min_size=TOKENS, max_size=TOKENS))  # fmt: skip
def test_a_write_loses_the_projections_that_are_ablated_and_nothing_else(bundle, per_token):
    rig = Rig(bundle)
    rig.set([tuple(Steering(d, Operator.ABLATE, s) for d, s in some) for some in per_token])
    write = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(4))
    got = rig.write(write)
    for i, some in enumerate(per_token):
        wanted = write[i].double().numpy().copy()
        for name in ("refusal", "other"):
            kept = np.prod([1 - s for d, s in some if d == name])
            wanted -= (1 - kept) * (wanted @ rig.unit(name)) * rig.unit(name)
        assert got[i].numpy() == pytest.approx(wanted, abs=1e-5)


def test_after_a_full_ablation_the_projection_is_zero(bundle):
    rig = Rig(bundle)
    rig.set([(Steering("refusal", Operator.ABLATE),)] * TOKENS)
    assert rig.write(torch.randn(TOKENS, D)).numpy() @ rig.unit("refusal") == pytest.approx(np.zeros(TOKENS), abs=1e-6)


def test_tokens_that_are_not_steered_are_not_touched_not_even_by_rounding(bundle):
    rig = Rig(bundle)
    rig.set([(Steering("refusal", Operator.ADD),), *[()] * (TOKENS - 1)])
    stream = torch.randn(TOKENS, D).to(torch.bfloat16)
    got = rig.output(HERE, stream)
    assert not torch.equal(got[0], stream[0])
    assert torch.equal(got[1:], stream[1:])


def test_only_the_layers_that_are_needed_do_anything(bundle):
    rig = Rig(bundle)
    stream = torch.randn(TOKENS, D)
    rig.set([(Steering("refusal", Operator.ADD),)] * TOKENS)
    assert [not torch.equal(rig.output(at, stream), stream) for at in range(LAYERS)] == [
        at == HERE for at in range(LAYERS)
    ]
    assert torch.equal(rig.write(stream), stream)
    rig.set([()] * TOKENS)
    assert all(torch.equal(rig.output(at, stream), stream) for at in range(LAYERS))


def test_lines_of_an_earlier_step_are_gone(bundle):
    rig = Rig(bundle)
    rig.set([(Steering("refusal", Operator.ADD),)] * TOKENS)
    rig.set([(), (Steering("refusal", Operator.ADD),), ()])
    assert (rig.table._table != 0).any(2).any(1).tolist() == [False, True, False, False, False, False]


def test_an_unknown_direction_or_probe_is_refused_with_those_there_are(bundle):
    table = Rig(bundle).table
    with pytest.raises(PlanError, match="refusal, other"):
        table.line((Steering("nowhere", Operator.ADD),))
    with pytest.raises(PlanError, match="intent"):
        table.line((Steering("refusal", Operator.ADD, when=Condition("nothing", 0.0)),))


def test_a_loaded_direction_acts_like_one_of_the_bundle_and_can_be_replaced(bundle):
    rig = Rig(bundle, n_spare=1)
    own = bundle.manifest.direction("refusal")
    stream = torch.randn(TOKENS, D)
    rig.set([(Steering("refusal", Operator.ADD),)] * TOKENS)
    wanted = rig.output(HERE, stream)
    rig.table.place(2, "extra:refusal@0", own, bundle.direction_vector("refusal"))
    rig.set([(Steering("extra:refusal@0", Operator.ADD),)] * TOKENS)
    assert torch.allclose(rig.output(HERE, stream), wanted)
    rig.table.place(2, "extra:refusal@1", own, -bundle.direction_vector("refusal"))
    rig.set([(Steering("extra:refusal@1", Operator.ADD, -1.0),)] * TOKENS)
    assert torch.allclose(rig.output(HERE, stream), wanted)
    with pytest.raises(PlanError):
        rig.table.line((Steering("extra:refusal@0", Operator.ADD),))


def rows(slots: list[int], positions: list[int]) -> StepRows:
    """One row for each position."""
    at, of = np.array(positions, dtype=np.int64), np.array(slots, dtype=np.int64)
    return SimpleNamespace(row_slots=of, row_positions=at, n_tokens=len(of))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 2, 3, 4, 5, 6, 7]])
def test_each_row_gets_the_line_of_its_position_also_when_positions_are_computed_again(bundle, order):
    rig = Rig(bundle)
    steering = (
        Steering("refusal", Operator.ADD, 1.0, SteeringScope.PROMPT),
        Steering("other", Operator.ABLATE, 0.5, SteeringScope.RESPONSE, start=1),
        Steering("other", Operator.ADD, 2.0, half_life=2.0),
    )
    plan = GatePlan("id", "p", "1", "b", 0.0, enforce=True, hold=False, n=1, detectors=(), steering=steering)
    steered, plain = (
        follow(plan, "d", 0, 3, 0, rig.columns),
        follow(
            GatePlan("id", "p", "1", "b", 0.0, enforce=True, hold=False, n=1, detectors=()), "d", 0, 3, 1, rig.columns
        ),
    )
    lines = Lines(rig.table, capacity=2)
    for request in (steered, plain):
        lines.open(request)
    for position in order:
        lines.fill(rows([1, 0], [position, position]), {0: steered, 1: plain})
        wanted = rig.table.line(steered.steering_at(position)[0]).fields
        assert np.array_equal(rig.table._table[1].numpy(), wanted)
        assert not rig.table._table[0].any()
    lines.fill(rows([0] * 5, [2, 3, 4, 5, 6]), {0: steered, 1: plain})
    for row, position in enumerate(range(2, 7)):
        assert np.array_equal(rig.table._table[row].numpy(), rig.table.line(steered.steering_at(position)[0]).fields)


def test_an_operator_that_the_engine_is_not_prepared_for_costs_nothing(bundle):
    scores = torch.zeros(TOKENS, len(bundle.manifest.probes))
    table = SteeringTable(bundle, [p.name for p in bundle.manifest.probes], scores, [Operator.ADD])
    assert table.at_write() is None
    assert [table.at_output(at) is None for at in range(LAYERS)] == [True, False, False, True]
    assert SteeringTable(bundle, [], scores, ()).at_output(HERE) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(st.lists(steerings(), min_size=TOKENS, max_size=TOKENS))
def test_what_is_traced_into_a_graph_changes_as_the_eager_form_does(bundle, per_token):
    rig = Rig(bundle)
    rig.set(per_token)
    stream = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(2))
    wanted_output, wanted_write = rig.output(HERE, stream), rig.write(stream)
    with patch("torch.compiler.is_compiling", return_value=True):
        assert torch.allclose(rig.output(HERE, stream), wanted_output, atol=1e-5)
        assert torch.allclose(rig.write(stream), wanted_write, atol=1e-5)
