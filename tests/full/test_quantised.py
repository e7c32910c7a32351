"""Quantised checkpoints: the engine's scores are those of what the packed weights mean.

The truth is transformers, in float32, on the weights that each format defines (``tests.support.quantised``). Four-bit
checkpoints run in bfloat16, whose rounding is far above the bound for float32: transformers itself, in bfloat16, is off
by up to 0.2 standard deviations of a column at the worst token of these prompts. 0.3 counts as equal; the model before
it was quantised is off by more than 1.3. Eight-bit checkpoints round the activations too, and the truth does the same;
a value at a rounding edge may fall on either side, within 0.01.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from probes.bundle import check_model
from probes.errors import BundleError
from tests.integration.conftest import start
from tests.support.parity import measure, random_prompts
from tests.support.quantised import quantise
from tests.support.reference import Reference
from tests.support.tiny import make_bundle, make_model

pytestmark = [pytest.mark.vllm, pytest.mark.full]


@dataclass(frozen=True)
class Case:
    """How a format runs here, and how near it has to be, in units of 1e-3 standard deviations."""

    dtype: str
    bound: float


CASES = {"gptq": Case("bfloat16", 300), "awq": Case("bfloat16", 300), "compressed-tensors": Case("float32", 10)}


@dataclass(frozen=True)
class Quantised:
    case: Case
    engine: Any
    truth: Reference
    source: Reference


@pytest.fixture(scope="module", params=CASES)
def quantised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quantised]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    case = CASES[request.param]
    source = make_model(folder / "source")
    model = quantise(source, folder / "packed", folder / "meaning", request.param)
    bundle = make_bundle(folder / "bundle", model)
    truth = Reference(folder / "meaning", bundle)
    if request.param == "compressed-tensors":
        round_activations(truth.model)
    engine = start(model, bundle, folder, enforce_eager=True, dtype=case.dtype)
    yield Quantised(case, engine, truth, Reference(source, bundle))
    engine.close()


def round_activations(model: torch.nn.Module) -> None:
    """Symmetric eight bits for each token, before every layer that is quantised."""

    def round_input(_module: torch.nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        scale = args[0].abs().amax(-1, keepdim=True) / 127
        return ((args[0] / scale).round() * scale,)

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(round_input)


def test_scores_and_steered_logits_are_those_of_what_the_weights_mean(quantised):
    prompts = random_prompts(15, seed=21)
    near = measure(quantised.engine, quantised.truth, prompts)
    assert max(score for score, _ in near) <= quantised.case.bound
    assert max(logit for _, logit in near) <= quantised.case.bound


def test_and_not_those_of_the_model_that_was_quantised(quantised):
    prompts = random_prompts(5, seed=22)
    far = measure(quantised.engine, quantised.source, prompts)
    assert min(score for score, _ in far) > quantised.case.bound


def test_a_bundle_for_the_source_is_refused_for_its_quantised_copy(tmp_path):
    source = make_model(tmp_path / "source")
    model = quantise(source, tmp_path / "packed", tmp_path / "meaning", "gptq")
    with pytest.raises(BundleError, match="weights"):
        check_model(make_bundle(tmp_path / "bundle", source), model)
