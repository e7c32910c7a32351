"""Steerings as data: what they do to the stream, compared with the formulas and with the engine's operators."""

from __future__ import annotations

import planted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.engine import ops
from probes.errors import PlumblineError, ShapeError
from probes.train.directions import ace
from probes.train.interventions import PLAIN, Gate, Steering, ablate, add, affine, conditional
from probes.train.model import LoadedModel, forward, next_logits, recorded
from tests.support.probe_samples import D_MODEL, N_LAYERS

IDS = [[2, 4, 20, 21, 22, 6, 5], [2, 4, 30, 6, 5]]
ENDS = torch.tensor([5, 3])
LAYER = 1
MODEL = planted.planted_model()
few = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 2**16)


def unit(seed: int, width: int = D_MODEL) -> torch.Tensor:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def streams(model: LoadedModel, steering: Steering, ids: list[list[int]] = IDS) -> list[torch.Tensor]:
    """Every layer's output as the next layer reads it."""
    ends = ENDS if ids is IDS else torch.tensor([len(i) for i in ids])
    with steering.applied(model, ends), recorded(model) as store:
        forward(model, ids)
    return store


@few
@given(seeds)
def test_an_ablated_stream_has_no_projection_at_any_layer(seed: int) -> None:
    vector = unit(seed, planted.D_MODEL)
    for stream in streams(MODEL, ablate(vector), [[11, 21, 31]]):
        assert (stream @ vector).abs().max() < 1e-5


@few
@given(seeds, st.floats(-3, 3), st.floats(0, 2))
def test_an_affine_edit_leaves_every_projection_at_the_negatives_mean_plus_alpha(
    seed: int, origin: float, alpha: float
) -> None:
    vector = unit(seed, planted.D_MODEL)
    edited = streams(MODEL, ace.edit(LAYER, vector, 2.0, origin, alpha), [[11, 21, 31]])[LAYER]
    torch.testing.assert_close(edited @ vector, torch.full((1, 3), 2.0 * (origin + alpha)), rtol=1e-4, atol=1e-4)


@few
@given(seeds, st.floats(0, 1))
def test_what_is_orthogonal_to_the_direction_is_left_alone(seed: int, strength: float) -> None:
    vector, other = unit(seed, planted.D_MODEL), unit(seed + 1, planted.D_MODEL)
    other = other - (other @ vector) * vector
    plain = streams(MODEL, PLAIN, [[11, 21, 31]])[LAYER]
    for steering in (ablate(vector, strength), add(LAYER, vector, strength), affine(LAYER, vector, 1.0, strength)):
        changed = streams(MODEL, steering, [[11, 21, 31]])[LAYER]
        torch.testing.assert_close(changed @ other, plain @ other, rtol=1e-4, atol=1e-4)


def engine(
    stream: torch.Tensor, vector: torch.Tensor, magnitude: float, fields: dict[int, float], score: torch.Tensor
) -> torch.Tensor:
    """The engine's operators on ``(n, n_tokens, d_model)``, every token with the same strengths."""
    rows = stream.flatten(0, 1).clone()
    table = torch.zeros(len(rows), ops.N_FIELDS, 1)
    for gate in (ops.ADD_GATE, ops.CLAMP_GATE):
        table[:, gate] = -1
    for field, value in fields.items():
        table[:, field] = value
    units = vector[None]
    ops.steer_output(
        rows, None, score.flatten()[:, None], units, units @ units.T, torch.tensor([magnitude]), table,
        ops.Kinds(ablate_output=False, clamp=True, add=True, conditions=True),
    )  # fmt: skip
    return rows.view(stream.shape)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_an_affine_edit_is_the_engines_clamp_with_equal_bounds(
    loaded: LoadedModel, alpha: float, strength: float
) -> None:
    vector, magnitude, origin = unit(3), 1.7, -0.6
    bound = ace.clamp_bound(origin, alpha)
    plain = streams(loaded, PLAIN)[LAYER]
    clamped = engine(
        plain, vector, magnitude, {ops.CLAMP: strength, ops.LOW: bound, ops.HIGH: bound}, torch.zeros(plain.shape[:2])
    )
    edited = streams(loaded, ace.edit(LAYER, vector, magnitude, origin, alpha, strength))[LAYER]
    torch.testing.assert_close(edited, clamped, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at", [0, LAYER])
def test_conditional_addition_is_the_engines(loaded: LoadedModel, at: int) -> None:
    vector, magnitude = unit(4), 2.5
    gate = Gate(at, torch.randn(D_MODEL), 0.3, threshold=-0.2, sharpness=1.5)
    plain = streams(loaded, PLAIN)
    score = plain[at] @ gate.weights + gate.bias
    wanted = engine(
        plain[LAYER], vector, magnitude,
        {ops.ADD: 0.7, ops.ADD_GATE: 0, ops.ADD_GATE + 1: gate.sharpness, ops.ADD_GATE + 2: gate.threshold}, score,
    )  # fmt: skip
    steered = streams(loaded, conditional(LAYER, vector * magnitude, gate, 0.7))[LAYER]
    torch.testing.assert_close(steered, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("threshold", "like"), [(1e6, PLAIN), (-1e6, add(LAYER, unit(4)))])
def test_a_gate_that_never_or_always_opens_is_no_steering_or_plain_addition(
    loaded: LoadedModel, threshold: float, like: Steering
) -> None:
    gate = Gate(0, torch.randn(D_MODEL), 0.0, threshold)
    steered, wanted = streams(loaded, conditional(LAYER, unit(4), gate)), streams(loaded, like)
    for layer in range(N_LAYERS):
        torch.testing.assert_close(steered[layer], wanted[layer])


def test_a_token_without_a_score_is_steered_in_full() -> None:
    gate = Gate(0, torch.ones(4), 0.0, threshold=1e6)
    assert gate.factor(torch.full((1, 2, 4), torch.nan)).tolist() == [[1.0, 1.0]]


def test_prompt_positions_end_where_each_rows_prompt_does(loaded: LoadedModel) -> None:
    vector = unit(5)
    plain, steered = streams(loaded, PLAIN)[LAYER], streams(loaded, add(LAYER, vector, scope="prompt"))[LAYER]
    for row, end in enumerate(ENDS.tolist()):
        torch.testing.assert_close(steered[row, :end], plain[row, :end] + vector)
        torch.testing.assert_close(steered[row, end:], plain[row, end:])


def test_steering_ends_with_its_context(loaded: LoadedModel) -> None:
    before = next_logits(loaded, IDS)
    gate = Gate(0, torch.randn(D_MODEL), 0.0, 0.0)
    with pytest.raises(ZeroDivisionError), conditional(LAYER, unit(1), gate).applied(loaded, ENDS):
        raise ZeroDivisionError
    torch.testing.assert_close(next_logits(loaded, IDS), before)


def test_a_condition_on_a_later_layer_is_refused(loaded: LoadedModel) -> None:
    gate = Gate(2, torch.randn(D_MODEL), 0.0, 0.0)
    with (
        pytest.raises(PlumblineError, match="reads layer 2, which runs after layer 1"),
        conditional(LAYER, unit(1), gate).applied(loaded, ENDS),
    ):
        pass


def test_a_vector_of_another_width_is_refused(loaded: LoadedModel) -> None:
    with (
        pytest.raises(ShapeError, match=r"\(3,\) does not fit the model: wanted \(64,\)"),
        add(0, torch.ones(3)).applied(loaded, ENDS),
    ):
        pass
