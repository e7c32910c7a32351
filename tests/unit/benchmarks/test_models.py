import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.models import CONFIGS, shapes, write_model, write_probes
from benchmarks.modes import MODES, make_plan
from probes.bundle import check_model


@pytest.mark.parametrize(("name", "wanted"), [("75m", 75e6), ("400m", 398e6), ("8b", 8.03e9)])
def test_a_model_has_the_parameters_that_its_name_says(name, wanted):
    assert sum(math.prod(shape) for shape in shapes(name).values()) == pytest.approx(wanted, rel=0.01)


def test_the_checkpoint_is_one_that_transformers_loads_with_random_weights_and_norms_of_one(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(write_model(tmp_path / "model", "tiny"), dtype=torch.float32)
    layer = model.model.layers[1]
    assert layer.mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert bool((layer.input_layernorm.weight == 1).all())
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_probes_are_bound_to_the_model(tmp_path):
    model = write_model(tmp_path / "model", "tiny")
    bundle = write_probes(tmp_path / "bundle", model, "tiny", every_layer=False)
    check_model(bundle, model)
    assert len(bundle.manifest.probes) == 8
    assert len({p.layer for p in bundle.manifest.probes}) == 3


def test_a_bundle_for_all_layers_has_a_probe_on_each(tmp_path):
    model = write_model(tmp_path / "model", "tiny")
    bundle = write_probes(tmp_path / "bundle", model, "tiny", every_layer=True)
    assert sorted(p.layer for p in bundle.manifest.probes) == list(range(CONFIGS["tiny"].num_hidden_layers))


@pytest.fixture
def bundle(tmp_path):
    return write_probes(tmp_path / "bundle", write_model(tmp_path / "model", "tiny"), "tiny", every_layer=False)


@pytest.mark.parametrize(("mode", "distinct"), [("reading", 1), ("steering_1", 1), ("steering_16", 16)])
def test_a_batch_has_as_many_steerings_as_its_mode_says(mode, distinct, bundle):
    plans = [make_plan(MODES[mode], bundle) for _ in range(64)]
    assert len({plan.steering for plan in plans}) == distinct
    assert bool(plans[0].steering) is (mode != "reading")
    assert all(len(plan.detectors) == 8 for plan in plans)


def test_the_condition_is_a_probe_that_has_run_when_the_direction_acts(bundle):
    (steering,) = make_plan(MODES["conditional"], bundle).steering
    probe = bundle.manifest.probe(steering.when.probe)
    assert probe.layer <= bundle.manifest.direction(steering.direction).layer


def test_requests_without_a_plan_are_what_off_measures(bundle):
    assert make_plan(MODES["off"], bundle) is None
