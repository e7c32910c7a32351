"""Directions that are loaded into a running engine: which content is named, and what is refused."""

import numpy as np
import pytest
from monitor_samples import DIGEST, MANIFEST, direction, write_directions

from monitor.errors import ConfigError, DirectionsError, InvalidRequestError, LoosensPolicyError, PlanError
from monitor.policy.compile import compile_plan
from monitor.policy.directions import Directions, read_loaded
from monitor.policy.options import GuardOptions
from monitor.policy.steering import Names
from monitor.policy.store import load_snapshot
from monitor.types import Operator, Steering
from probes.types import Fingerprint

FINGERPRINT = MANIFEST.model.fingerprint
POLICY = """
version: 1
default: cheerful
policies:
  - name: cheerful
    steering: [{direction: "extra:humour", operator: add, when: {probe: deception, threshold: 1.0}}]
    rules:
      - name: lie
        probe: deception
        action: steer
        steering: [{direction: "extra:humour", operator: ablate_output}]
  - name: open
    callers:
      may_select: true
      may_steer: [{direction: "extra:humour", operators: [add], max_strength: 1}]
"""


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "directions"
    write_directions(path / "extra", direction("humour"), direction("warmth"))
    return path


@pytest.fixture
def directions(folder):
    return Directions(folder, FINGERPRINT)


@pytest.fixture
def snapshot(folder, tmp_path):
    (tmp_path / "policy.yaml").write_text(POLICY)
    return load_snapshot(tmp_path / "policy.yaml", Names.of(MANIFEST, folder))


def compiled(snapshot, names, policy=None, *steering):
    options = GuardOptions(policy=policy, steering=steering)
    return compile_plan(
        snapshot.select(policy), options, names=names, digest=DIGEST, revision="r", request_id="id", n=1, expires=2e9
    )


def test_a_name_in_a_plan_leads_to_exactly_the_content_that_was_resolved(directions, folder):
    found, qualified = directions.resolve("extra:humour")
    assert (found.name, found.layer) == ("humour", 3)
    assert qualified.startswith("extra:humour@")
    loaded, vector = read_loaded(folder, qualified)
    assert loaded == found
    assert vector.shape == (MANIFEST.model.d_model,)
    assert np.linalg.norm(vector) == pytest.approx(1)
    write_directions(folder / "extra", direction("humour"), seed=1)
    with pytest.raises(PlanError, match="are others"):
        read_loaded(folder, qualified)


def test_a_folder_that_is_new_or_has_changed_is_seen_without_a_restart(directions, folder):
    first = directions.resolve("extra:humour")[1]
    assert directions.resolve("extra:humour")[1] == first
    write_directions(folder / "extra", direction("humour", layer=4), seed=1)
    found, second = directions.resolve("extra:humour")
    assert (found.layer, second != first) == (4, True)
    with pytest.raises(PlanError, match=r"those in .* are extra$"):
        directions.resolve("later:calm")
    write_directions(folder / "later", direction("calm"))
    assert directions.resolve("later:calm")[0].name == "calm"


def test_files_are_read_once_as_long_as_they_stay_the_same(directions, folder):
    first = directions.resolve("extra:humour")
    (folder / "extra" / "bundle.json").write_text("altered after it was read")
    assert directions.resolve("extra:humour") == first


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("extra:anger", "the directions in .* are humour, warmth"),
        ("none:humour", "those in .* are extra"),
        ("../directions/extra:humour", "wanted folder:direction"),
        ("..:humour", "wanted folder:direction"),
        (".hidden:humour", "wanted folder:direction"),
        ("extra:humour@0123456789abcdef", "the monitor adds the digest"),
        ("extra:", "wanted folder:direction"),
        ("extra:humour\n", "wanted folder:direction"),
    ],
)
def test_what_cannot_be_resolved_says_why(directions, name, says):
    with pytest.raises(PlanError, match=says):
        directions.resolve(name)


@pytest.mark.parametrize("name", ["extra:humour", "extra:humour@0123", "../extra:humour@0123456789abcdef", "humour"])
def test_the_engine_takes_names_with_a_digest_only(folder, name):
    with pytest.raises(PlanError, match="folder:direction@digest"):
        read_loaded(folder, name)


def test_without_a_folder_nothing_is_loaded():
    with pytest.raises(PlanError, match="PLUMBLINE_DIRECTIONS"):
        Directions(None, FINGERPRINT).resolve("extra:humour")
    with pytest.raises(PlanError, match="PLUMBLINE_DIRECTIONS"):
        read_loaded(None, "extra:humour@0123456789abcdef")


def test_altered_files_and_other_models_are_refused(directions, folder):
    (folder / "extra" / "tensors.safetensors").write_bytes(b"x")
    with pytest.raises(PlanError, match="was altered"):
        directions.resolve("extra:humour")
    other = Fingerprint(config="a", tokenizer="b", chat_template="c", weights="other")
    write_directions(folder / "foreign", direction("humour"), fingerprint=other)
    with pytest.raises(PlanError, match=r"another model .*weights differs"):
        directions.resolve("foreign:humour")


def test_a_folder_that_is_not_there_is_told_at_start(tmp_path):
    with pytest.raises(ConfigError, match=r"--directions .*nowhere"):
        Names.of(MANIFEST, tmp_path / "nowhere")


def test_a_policy_names_loaded_directions_and_each_plan_names_their_content(snapshot, folder):
    names = Names.of(MANIFEST, folder)
    first = compiled(snapshot, names)
    qualified = names.directions.resolve("extra:humour")[1]
    assert first.steering[0].direction == qualified
    assert first.detectors[0].steering[0].direction == qualified
    write_directions(folder / "extra", direction("humour"), seed=1)
    second = compiled(snapshot, names)
    assert second.steering[0].direction not in (qualified, "extra:humour")
    assert second.cache_salt() != first.cache_salt()
    assert second.digest != first.digest


def test_a_policy_whose_loaded_direction_is_gone_fails_closed(snapshot, folder):
    names = Names.of(MANIFEST, folder)
    write_directions(folder / "extra", direction("warmth"))
    with pytest.raises(
        DirectionsError, match=r"cheerful: rule lie: steering\[0\]\.direction: got 'humour'.* are warmth"
    ):
        compiled(snapshot, names)
    write_directions(folder / "extra", direction("humour", layer=1))  # the condition's probe reads layer 2
    with pytest.raises(DirectionsError, match=r"when\.probe: deception reads layer 2"):
        compiled(snapshot, names)


def test_a_policy_that_names_what_is_not_there_is_not_loaded(tmp_path, folder):
    text = POLICY.replace('may_steer: [{direction: "extra:humour"', 'may_steer: [{direction: "extra:x"')
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"may_steer\[0\]\.direction: got 'x', the directions in .* humour, warmth"):
        load_snapshot(tmp_path / "policy.yaml", Names.of(MANIFEST, folder))


def test_callers_use_the_loaded_directions_that_the_policy_lets_them(snapshot, folder):
    names = Names.of(MANIFEST, folder)
    plan = compiled(snapshot, names, "open", Steering("extra:humour", Operator.ADD, 0.5))
    assert plan.steering == (Steering(names.directions.resolve("extra:humour")[1], Operator.ADD, 0.5),)
    with pytest.raises(LoosensPolicyError, match="lets callers use add extra:humour up to 1"):
        compiled(snapshot, names, "open", Steering("extra:warmth", Operator.ADD, 0.5))
    with pytest.raises(InvalidRequestError, match=r"guard\.steering\[0\]\.direction: got 'fear'"):
        compiled(snapshot, names, "open", Steering("extra:fear", Operator.ADD, 0.5))
