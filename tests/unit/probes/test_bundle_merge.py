"""Merged bundles hold what went in, under names of their own, for one model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_samples import make_card, make_manifest, make_probe, make_tensors
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from probes.bundle import Bundle, Rename, merge_bundles, query_tensor, sign_bundle, write_bundle
from probes.bundle.merge import Merged
from probes.errors import BundleFormatError, ModelMismatchError
from probes.types import Fingerprint, FoldKind, FoldSpec


@pytest.fixture
def first(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "first", make_manifest(), make_tensors(), card=make_card())


def another(folder: Path, probe: str = "intent", direction: str = "honesty", name: str = "other") -> Bundle:
    manifest = make_manifest(probe=probe, direction=direction, name=name)
    card = make_card(probe, direction, auroc=0.8)
    return write_bundle(folder / name, manifest, make_tensors(probe, direction, seed=1), card=card)


def merge(*bundles: Bundle, renames: tuple[Rename, ...] = ()) -> Merged:
    return merge_bundles(bundles, name="both", version="7", created="2026-02-01T00:00:00+00:00", renames=renames)


def test_a_merged_bundle_has_the_probes_directions_tensors_and_cards_of_all(first: Bundle, tmp_path: Path) -> None:
    second = another(tmp_path)
    merged = merge(first, second)
    bundle = write_bundle(tmp_path / "both", merged.manifest, merged.tensors, card=merged.card)
    assert bundle.manifest.probes == first.manifest.probes + second.manifest.probes
    assert bundle.manifest.directions == first.manifest.directions + second.manifest.directions
    assert bundle.manifest.model == first.manifest.model
    assert (bundle.manifest.name, bundle.manifest.version) == ("both", "7")
    for source in (first, second):
        for name, tensor in source.tensors.items():
            np.testing.assert_array_equal(bundle.tensors[name], tensor)
    assert first.card and second.card and bundle.card
    assert bundle.card.probes == {**first.card.probes, **second.card.probes}
    assert bundle.card.directions == {**first.card.directions, **second.card.directions}
    assert bundle.card.failures == first.card.failures + second.card.failures


def test_the_card_says_which_bundles_were_merged_and_keeps_what_they_agree_on(first: Bundle, tmp_path: Path) -> None:
    card = merge(first, another(tmp_path)).card
    assert card.note == "a small bundle for tests"
    assert card.data == {"sha256": "b6ff97"}
    assert card.settings["seed"] == 0
    origins = card.settings["merged_from"]
    assert [origin["name"] for origin in origins] == ["test", "other"]
    assert origins[0]["digest"] == first.digest


def test_data_that_differ_are_kept_under_the_name_of_their_bundle(first: Bundle, tmp_path: Path) -> None:
    card = make_card("intent", "honesty").model_copy(update={"data": {"sha256": "ffff"}, "note": "other words"})
    manifest, tensors = make_manifest(probe="intent", direction="honesty"), make_tensors("intent", "honesty")
    second = write_bundle(tmp_path / "second", manifest, tensors, card=card)
    merged = merge(first, second).card
    assert merged.note == "a small bundle for tests\nother words"
    assert merged.data == {
        f"test 1 {first.digest[:12]}": {"sha256": "b6ff97"},
        f"test 1 {second.digest[:12]}": {"sha256": "ffff"},
    }


def test_bundles_without_cards_can_be_merged(tmp_path: Path) -> None:
    bundles = [
        write_bundle(tmp_path / p, make_manifest(probe=p, direction=p), make_tensors(p, p)) for p in ("one", "two")
    ]
    assert merge(*bundles).card.probes == {}


@pytest.mark.parametrize(
    ("probe", "direction", "message"),
    [
        ("deception", "honesty", "both have a probe 'deception'; rename one: --rename 2:deception=NEW"),
        ("intent", "refusal", "both have a direction 'refusal'; rename one: --rename 2:refusal=NEW"),
    ],
)
def test_names_that_clash_are_refused_saying_how_to_rename(
    first: Bundle, tmp_path: Path, probe: str, direction: str, message: str
) -> None:
    with pytest.raises(BundleFormatError, match=message):
        merge(first, another(tmp_path, probe, direction))


def test_a_probe_and_a_direction_may_share_a_name(first: Bundle, tmp_path: Path) -> None:
    assert len(merge(first, another(tmp_path, probe="refusal")).tensors) == 4


@pytest.mark.parametrize("bundle", [None, 1], ids=["the last that has it", "the second"])
def test_a_rename_reaches_manifest_tensors_and_card(first: Bundle, tmp_path: Path, bundle: int | None) -> None:
    second = another(tmp_path, probe="deception")
    merged = merge(first, second, renames=(Rename("deception", "deception_b", bundle),))
    assert [p.name for p in merged.manifest.probes] == ["deception", "deception_b"]
    np.testing.assert_array_equal(merged.tensors["probe.deception.weights"], first.probe_weights("deception"))
    np.testing.assert_array_equal(merged.tensors["probe.deception_b.weights"], second.probe_weights("deception"))
    assert merged.card.probes["deception"].auroc.value == 0.97
    assert merged.card.probes["deception_b"].auroc.value == 0.8


def test_the_query_of_an_attention_probe_is_renamed_with_it(first: Bundle, tmp_path: Path) -> None:
    probe = make_probe(fold=FoldSpec(kind=FoldKind.ATTENTION))
    tensors = make_tensors(direction="honesty") | {query_tensor("deception"): np.ones(64, np.float32)}
    second = write_bundle(tmp_path / "b", make_manifest(direction="honesty", probes=(probe,)), tensors)
    merged = merge(first, second, renames=(Rename("deception", "attentive"),))
    np.testing.assert_array_equal(merged.tensors[query_tensor("attentive")], np.ones(64, np.float32))
    assert query_tensor("deception") not in merged.tensors


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (Rename("absent", "x"), "'absent' is to be renamed, but no bundle has it; there are .*deception"),
        (Rename("intent", "x", 0), "but bundle 1 has no such name"),
        (Rename("intent", "x", 5), "but bundle 6 has no such name"),
        (Rename("intent", "../x"), "a new name cannot be used"),
        (Rename("intent", "deception"), "both have a probe 'deception'"),
    ],
)
def test_a_rename_that_cannot_be_made_is_refused(first: Bundle, tmp_path: Path, rename: Rename, message: str) -> None:
    with pytest.raises(BundleFormatError, match=message):
        merge(first, another(tmp_path), renames=(rename,))


def test_bundles_for_different_models_are_refused_naming_what_differs(first: Bundle, tmp_path: Path) -> None:
    fingerprint = Fingerprint(config="a", tokenizer="other", chat_template="c", weights="other")
    manifest = make_manifest(fingerprint, probe="intent", direction="honesty")
    second = write_bundle(tmp_path / "b", manifest, make_tensors("intent", "honesty"))
    with pytest.raises(ModelMismatchError, match=r"tokenizer, weights differ\. Only bundles for one model"):
        merge(first, second)


def test_one_bundle_is_nothing_to_merge(first: Bundle) -> None:
    with pytest.raises(BundleFormatError, match="give at least two"):
        merge(first)


def test_the_result_is_not_signed_whoever_signed_its_parts(first: Bundle, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    bundles = [sign_bundle(b.path, key) for b in (first, another(tmp_path))]
    merged = merge(*bundles)
    assert write_bundle(tmp_path / "m", merged.manifest, merged.tensors, card=merged.card).signature is None
