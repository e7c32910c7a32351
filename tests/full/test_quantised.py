"""Quantised checkpoints: the engine's scores are those of what the packed weights mean.

The truth is transformers, in float32, on the weights that each format defines (``tests.support.quantised``). Errors are
in units of 1e-3 standard deviations (``tests.support.parity``), so that 1 is what counts as equal in float32. How near
the engine has to be is what transformers itself misses by when it computes the same tokens at another precision, times
three: two roundings in a different order, and steering, which that measurement leaves out. Half of the tokens have to
be as near as half of transformers' own are, and the worst as near as its worst.

Four-bit checkpoints run in float16 (own error: 1.7 at the median, 8 at worst).

Eight-bit checkpoints round the activations too, and the truth does the same. That arithmetic is not continuous: where a
value lies at a rounding edge, noise of 1e-7 moves it by a whole step, which later layers and tokens amplify to 80:
transformers in float64 and in float32 are that far apart. What proves the arithmetic is the half of the tokens that no
edge came near to: they agree within 1. Prompts are short so that there are such tokens.

On the same tokens, half of what the model gives before it is quantised is ten bounds away: of the worst token for
four-bit checkpoints, of the median for eight-bit ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from probes.bundle import check_model
from probes.errors import BundleError
from tests.support.parity import STEERINGS, random_prompts
from tests.support.quantised import quantise, round_activations
from tests.support.reference import Reference
from tests.support.start import start
from tests.support.tiny import N_WORDS, make_bundle, make_model

pytestmark = [pytest.mark.vllm, pytest.mark.full]

CALM = {"initializer_range": 0.05}
"""Weights of the size that real models have: rounding errors do not grow from layer to layer."""


@dataclass(frozen=True)
class Case:
    """How a format runs here.

    Attributes:
        dtype: what the engine computes in.
        other: what transformers' own error is measured with.
        share: of the tokens, whose bound the source must be far beyond: all, if the arithmetic is continuous.
        longest: words of the longest prompt.
    """

    dtype: str
    other: torch.dtype
    share: float
    longest: int


CASES = {
    "gptq": Case("float16", torch.float16, 1.0, 90),
    "awq": Case("float16", torch.float16, 1.0, 90),
    "compressed-tensors": Case("float32", torch.float64, 0.5, 12),
}


class Errors:
    """Differences of every token, in units of 1e-3 standard deviations.

    Attributes:
        scores: the worst column of each token. logits: the worst entry of the vocabulary at each position.
    """

    def __init__(self) -> None:
        self.scores, self.logits = torch.empty(0), torch.empty(0)

    def add(self, got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
        """Compare scores ``(n_tokens, n_columns)`` and logits ``(n_positions, vocab)`` of one request."""
        (scores, logits), (true_scores, true_logits) = ([part.float() for part in pair] for pair in (got, wanted))
        assert scores.shape == true_scores.shape
        assert logits.shape == true_logits.shape
        allowed = torch.maximum(true_scores.abs(), true_scores.std(0))
        self.scores = torch.cat([self.scores, 1e3 * ((scores - true_scores).abs() / allowed).amax(1)])
        spread = true_logits.std(1, keepdim=True)
        self.logits = torch.cat([self.logits, 1e3 * ((logits - true_logits).abs() / spread).amax(1)])

    def reach(self, share: float) -> tuple[float, float]:
        """What that share of the tokens stays within, for scores and for logits."""
        return float(self.scores.quantile(share)), float(self.logits.quantile(share))


@dataclass(frozen=True)
class Outcome:
    """One format's errors on the same tokens.

    Attributes:
        near: the engine against what the weights mean. far: the engine against the model before it was quantised.
        own: transformers at another precision against transformers.
    """

    case: Case
    near: Errors
    far: Errors
    own: Errors

    def bounds(self, share: float) -> tuple[float, float]:
        """How near that share of the tokens has to be, for scores and for logits."""
        scores, logits = self.own.reach(share)
        return max(1.0, 3 * scores), max(1.0, 3 * logits)


@pytest.fixture(scope="module", params=CASES)
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder: Path = tmp_path_factory.mktemp(request.param)
    case = CASES[request.param]
    source = make_model(folder / "source", sizes=CALM)
    model = quantise(source, folder / "packed", folder / "meaning", request.param)
    bundle = make_bundle(folder / "bundle", model)
    truth, other = (Reference(folder / "meaning", bundle) for _ in range(2))
    other.model.to(case.other)
    if request.param == "compressed-tensors":
        round_activations(truth.model)
        round_activations(other.model)
    engine = start(model, bundle, folder, enforce_eager=True, dtype=case.dtype)
    try:
        return compare(engine, case, truth, Reference(source, bundle), other)
    finally:
        engine.close()


def compare(engine: Any, case: Case, truth: Reference, source: Reference, other: Reference) -> Outcome:
    """Run prompts under mixed steerings in the engine, then the same tokens in all references."""
    prompts = random_prompts(30, seed=21, longest=case.longest)
    plans = [engine.plan(steering=STEERINGS[i % len(STEERINGS)]) for i in range(len(prompts))]
    outputs, frames = engine.generate(prompts, plans, logprobs=-1)
    result = Outcome(case, Errors(), Errors(), Errors())
    for prompt, plan, output in zip(prompts, plans, outputs, strict=True):
        choice = output.outputs[0]
        ids = (prompt + list(choice.token_ids))[:-1]  # the last sampled token is never fed forward
        scores = torch.from_numpy(frames[plan.request_id, 0].matrix(truth.columns))
        got = scores, torch.tensor([[entry[i].logprob for i in range(N_WORDS)] for entry in choice.logprobs])
        result.near.add(got, sampled(truth, ids, len(choice.token_ids), plan.steering))
        result.far.add(got, sampled(source, ids, len(choice.token_ids), plan.steering))
        result.own.add(sampled(other, ids, len(choice.token_ids)), sampled(truth, ids, len(choice.token_ids)))
    return result


def sampled(reference: Reference, ids: Sequence[int], n: int, steering: Sequence[Any] = ()) -> tuple[Tensor, Tensor]:
    """Scores of all tokens, and the logits of the last ``n`` positions."""
    scores, logits = reference.run(ids, steering)
    return scores, logits[-n:]


def test_scores_and_steered_logits_are_those_of_what_the_weights_mean(outcome):
    for share in (0.5, 1.0):
        (scores, logits), (most_scores, most_logits) = outcome.near.reach(share), outcome.bounds(share)
        assert scores <= most_scores
        assert logits <= most_logits


def test_and_ten_bounds_from_those_of_the_model_that_was_quantised(outcome):
    (scores, logits), (bound_scores, bound_logits) = outcome.far.reach(0.5), outcome.bounds(outcome.case.share)
    assert scores >= 10 * bound_scores
    assert logits >= 10 * bound_logits


def test_a_bundle_for_the_source_is_refused_for_its_quantised_copy(tmp_path):
    source = make_model(tmp_path / "source")
    model = quantise(source, tmp_path / "packed", tmp_path / "meaning", "gptq")
    with pytest.raises(BundleError, match="weights"):
        check_model(make_bundle(tmp_path / "bundle", source), model)
