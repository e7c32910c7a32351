"""What differs between two bundles: every field, the angle between vectors, and the figures of the cards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_samples import VECTOR, WEIGHTS, D, make_card, make_manifest, make_probe, make_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from probes.bundle import Bundle, BundleDiff, diff_bundles, write_bundle
from probes.bundle.flatten import flatten
from probes.types import Fingerprint, Threshold


@pytest.fixture
def before(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "before", make_manifest(), make_tensors(), card=make_card())


def after(before: Bundle, manifest=None, tensors=None, card=None) -> Bundle:
    return write_bundle(
        before.path.parent / "after", manifest or make_manifest(), tensors or make_tensors(), card=card or make_card()
    )


def fields(diff: BundleDiff) -> dict[str, tuple[object, object]]:
    """Of the only item that differs."""
    (item,) = diff.items
    return {change.field: (change.before, change.after) for change in item.changes}


def test_a_bundle_equals_its_copy(before: Bundle) -> None:
    diff = diff_bundles(before, after(before))
    assert diff.equal
    assert not diff.changes and not diff.items


def test_other_weights_show_the_cosine_that_scikit_learn_finds(before: Bundle) -> None:
    other = make_tensors(seed=1)[WEIGHTS]
    diff = diff_bundles(before, after(before, tensors=make_tensors() | {WEIGHTS: other}))
    (item,) = diff.items
    assert (item.kind, item.name, item.status) == ("probe", "deception", "changed")
    wanted = cosine_similarity([make_tensors()[WEIGHTS].astype(float)], [other.astype(float)])[0, 0]
    assert item.cosine == pytest.approx(wanted, abs=1e-12)
    assert [change.field for change in item.changes] == ["weights (SHA-256)"]


def test_a_flipped_direction_has_cosine_minus_one(before: Bundle) -> None:
    diff = diff_bundles(before, after(before, tensors=make_tensors() | {VECTOR: -make_tensors()[VECTOR]}))
    assert [(item.kind, item.cosine) for item in diff.items] == [("direction", pytest.approx(-1, abs=1e-12))]


@pytest.mark.parametrize("bit", [0, 31])
def test_a_single_bit_of_a_single_weight_is_a_difference(before: Bundle, bit: int) -> None:
    changed = make_tensors()[WEIGHTS].copy()
    changed.view(np.uint32)[5] ^= np.uint32(1 << bit)
    diff = diff_bundles(before, after(before, tensors=make_tensors() | {WEIGHTS: changed}))
    assert not diff.equal


def test_zero_weights_have_no_cosine(before: Bundle) -> None:
    diff = diff_bundles(before, after(before, tensors=make_tensors() | {WEIGHTS: np.zeros(D, np.float32)}))
    assert diff.items[0].cosine is None


def test_layer_fold_threshold_and_figures_are_told_field_by_field(before: Bundle) -> None:
    cut = Threshold(value=2.5, fpr=0.01, measured_fpr=0.005, n_negatives=400, data="validation")
    probe = make_probe(layer=2, fold={"kind": "max", "min_tokens": 3}, thresholds=(cut,), metrics={"tpr": 0.9})
    found = fields(diff_bundles(before, after(before, make_manifest(probes=(probe,)), card=make_card(auroc=0.9))))
    assert found == {
        "layer": (1, 2),
        "fold.kind": ("mean", "max"),
        "thresholds[0.01 empirical].value": (1.25, 2.5),
        "metrics.tpr": (None, 0.9),
        "card.auroc.value": (0.97, 0.9),
        "card.auroc.low": (pytest.approx(0.96), pytest.approx(0.89)),
        "card.auroc.high": (pytest.approx(0.98), pytest.approx(0.91)),
    }


def test_probes_and_directions_come_and_go_by_name(before: Bundle) -> None:
    manifest = make_manifest(probe="intent", direction="honesty")
    diff = diff_bundles(before, after(before, manifest, make_tensors("intent", "honesty")))
    assert {(item.kind, item.name, item.status) for item in diff.items} == {
        ("probe", "deception", "removed"),
        ("probe", "intent", "added"),
        ("direction", "refusal", "removed"),
        ("direction", "honesty", "added"),
    }


def test_model_and_data_are_told_for_the_bundle_as_a_whole(before: Bundle) -> None:
    manifest = make_manifest(Fingerprint(config="a", tokenizer="b", chat_template="c", weights="new"))
    card = make_card().model_copy(update={"data": {"sha256": "ffff"}})
    changes = {c.field: (c.before, c.after) for c in diff_bundles(before, after(before, manifest, card=card)).changes}
    assert changes.pop("model.fingerprint.weights") == ("d", "new")
    assert changes.pop("card.data.sha256") == ("b6ff97", "ffff")
    assert set(changes) == {"card.digest"}


def test_any_other_difference_of_the_cards_shows_in_their_digest(before: Bundle) -> None:
    probe = make_card().probes["deception"].model_copy(update={"by_seed": (0.1, 0.2)})
    diff = diff_bundles(before, after(before, card=make_card().model_copy(update={"probes": {"deception": probe}})))
    assert "card.digest" in {change.field for change in diff.changes}


def test_a_bundle_of_another_width_can_be_compared(before: Bundle) -> None:
    model = make_manifest().model.model_copy(update={"d_model": 32})
    unit = np.eye(32, dtype=np.float32)[0]
    diff = diff_bundles(before, after(before, make_manifest(model=model), {WEIGHTS: unit, VECTOR: unit}))
    assert [item.cosine for item in diff.items] == [None, None]


leaves = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
        | st.lists(st.fixed_dictionaries({"name": st.sampled_from("xy"), "value": inner}), min_size=1, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), trees, max_size=3))
def test_flattening_keeps_every_leaf_also_of_entries_that_share_a_name(tree: dict[str, object]) -> None:
    def count(value: object) -> int:
        if isinstance(value, dict):
            return sum(map(count, value.values()))
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return sum(map(count, value))
        return 1

    assert len(flatten(tree)) == count(tree)
