"""Bundles of schema version 1 are converted by hand, with nothing lost, and never on the sly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bundle_samples import make_manifest, make_tensors, reseal

from probes.bundle import Bundle, migrate_bundle, read_bundle, write_bundle
from probes.errors import BundleFormatError

MEASURED = {
    "note": "organism",
    "advice": "recalibrate",
    "data": {"sha256": "b6ff", "counts": {"deception": {"test/0": 486}}},
    "seed": 3,
    "probes": {"deception": {"layers": [{"layer": 0, "auroc_plain": 0.58}]}},
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder as schema version 1 had it: no card.json, and a free ``card`` in the manifest."""
    path = write_bundle(tmp_path / "old", make_manifest(), make_tensors()).path
    change(path, schema_version=1, card=MEASURED)
    return path


def change(path: Path, **changes: object) -> None:
    manifest = json.loads((path / "bundle.json").read_text())
    (path / "bundle.json").write_text(json.dumps(manifest | changes))
    reseal(path)


def contents(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def test_a_converted_bundle_has_the_same_manifest_tensors_and_figures(old: Path, tmp_path: Path) -> None:
    before = contents(old)
    new = migrate_bundle(old, tmp_path / "new")
    assert new.digest == read_bundle(tmp_path / "new").digest
    assert new.manifest == make_manifest()
    for name, tensor in make_tensors().items():
        np.testing.assert_array_equal(new.tensors[name], tensor)
    assert new.card is not None
    assert (new.card.note, new.card.advice, new.card.data) == ("organism", "recalibrate", MEASURED["data"])
    assert new.card.settings["seed"] == 3
    assert new.card.settings["probes"] == MEASURED["probes"]
    assert new.card.settings["migrated_from"]["schema_version"] == 1
    assert contents(old) == before


def test_an_altered_bundle_is_not_converted(old: Path, tmp_path: Path) -> None:
    with (old / "bundle.json").open("a") as file:
        file.write(" ")
    with pytest.raises(BundleFormatError, match="altered"):
        migrate_bundle(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("version", "message"), [(2, "nothing to convert"), (3, "of a newer one: upgrade"), ("1", "wanted a number")]
)
def test_only_older_versions_are_converted(old: Path, tmp_path: Path, version: object, message: str) -> None:
    change(old, schema_version=version, card={})
    with pytest.raises(BundleFormatError, match=message):
        migrate_bundle(old, tmp_path / "new")


@pytest.mark.parametrize("changes", [{"surprise": 1}, {"probes": 3}, {"card": {"note": 7}}, {"model": None}])
def test_what_does_not_fit_version_1_is_refused(old: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    change(old, **changes)
    with pytest.raises(BundleFormatError, match="does not fit schema version 1"):
        migrate_bundle(old, tmp_path / "new")


def test_a_bundle_that_is_there_is_left_alone(old: Path, tmp_path: Path) -> None:
    there: Bundle = write_bundle(tmp_path / "there", make_manifest(name="mine"), make_tensors())
    with pytest.raises(BundleFormatError, match="holds a bundle already"):
        migrate_bundle(old, there.path)
    assert read_bundle(there.path).manifest.name == "mine"
    assert migrate_bundle(old, there.path, overwrite=True).manifest.name == "test"
