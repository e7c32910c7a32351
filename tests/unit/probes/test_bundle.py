"""Bundles: written whole, read back equal, and refused when anything differs."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_samples import VECTOR, WEIGHTS, D, make_card, make_manifest, make_tensors, reseal
from safetensors.numpy import save_file

from probes.bundle import Bundle, check_model, read_bundle, write_bundle
from probes.cards import Card
from probes.errors import BundleFormatError, ModelMismatchError
from probes.fingerprint import fingerprint_model


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle", make_manifest(), make_tensors(), card=make_card())


def test_a_bundle_reads_back_as_it_was_written(bundle: Bundle) -> None:
    again = read_bundle(bundle.path)
    assert again.manifest == make_manifest()
    assert again.card == make_card()
    assert again.signature is again.signed_by is None
    np.testing.assert_array_equal(again.probe_weights("deception"), make_tensors()["probe.deception.weights"])
    np.testing.assert_array_equal(again.direction_vector("refusal"), make_tensors()["direction.refusal.vector"])
    assert again.digest == bundle.digest == hashlib.sha256((bundle.path / "SHA256SUMS").read_bytes()).hexdigest()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="coreutils")
def test_its_checksums_are_those_of_sha256sum(bundle: Bundle) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle.path, check=True, capture_output=True)


def test_tensors_in_memory_cannot_be_changed(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="read-only"):
        bundle.probe_weights("deception")[0] = 1.0


def test_an_unknown_name_says_which_names_there_are(bundle: Bundle) -> None:
    with pytest.raises(KeyError, match="deception"):
        bundle.probe_weights("nothing")


@pytest.mark.parametrize("name", ["bundle.json", "card.json", "tensors.safetensors", "SHA256SUMS"])
def test_one_altered_byte_is_refused_naming_the_file(bundle: Bundle, name: str) -> None:
    data = bytearray((bundle.path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / name).write_bytes(data)
    with pytest.raises(BundleFormatError, match=r"altered|lists"):
        read_bundle(bundle.path)


@pytest.mark.parametrize("name", ["bundle.json", "card.json", "tensors.safetensors", "SHA256SUMS"])
def test_a_missing_file_is_refused_naming_it(bundle: Bundle, name: str) -> None:
    (bundle.path / name).unlink()
    with pytest.raises(BundleFormatError, match=name):
        read_bundle(bundle.path)


def test_a_file_that_belongs_to_no_bundle_is_refused_but_a_readme_is_not(bundle: Bundle) -> None:
    (bundle.path / "README.md").write_text("about this bundle")
    read_bundle(bundle.path)
    (bundle.path / "weights.pkl").write_bytes(b"")
    with pytest.raises(BundleFormatError, match=r"weights\.pkl"):
        read_bundle(bundle.path)


def test_a_bundle_without_a_card_has_none(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", make_manifest(), make_tensors())
    assert bundle.card is None
    assert not (bundle.path / "card.json").exists()


def test_a_card_that_the_sums_do_not_cover_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", make_manifest(), make_tensors())
    (bundle.path / "card.json").write_text(Card().model_dump_json())
    with pytest.raises(BundleFormatError, match=r"lists bundle\.json, tensors\.safetensors; wanted .* card\.json"):
        read_bundle(bundle.path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds a JSON list; wanted an object"),
        ('{"version": 1, "surprise": 1}', "surprise"),
        ('{"version": 1', "is not JSON"),
        ('{"version": 2}', r"card\.json has version 2; this Plumbline reads 1.*upgrade"),
    ],
)
def test_a_broken_card_is_refused_saying_why(bundle: Bundle, text: str, message: str) -> None:
    (bundle.path / "card.json").write_text(text)
    reseal(bundle.path)
    with pytest.raises(BundleFormatError, match=message):
        read_bundle(bundle.path)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (1, "has schema version 1; this Plumbline reads 2. Convert it: plumbline bundle migrate .*bundle NEW"),
        (3, "has schema version 3; this Plumbline reads 2. It comes from a newer Plumbline: upgrade"),
        ("2", "has schema version '2'; wanted a number"),
        (True, "has schema version True; wanted a number"),
        (None, "has schema version None; wanted a number"),
    ],
)
def test_another_schema_version_is_refused_saying_what_to_do(bundle: Bundle, version: object, message: str) -> None:
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    (bundle.path / "bundle.json").write_text(json.dumps(manifest | {"schema_version": version}))
    reseal(bundle.path)
    with pytest.raises(BundleFormatError, match=message):
        read_bundle(bundle.path)


def test_an_unknown_field_in_the_manifest_is_refused(bundle: Bundle) -> None:
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    (bundle.path / "bundle.json").write_text(json.dumps(manifest | {"surprise": 1}))
    reseal(bundle.path)
    with pytest.raises(BundleFormatError, match="surprise"):
        read_bundle(bundle.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({WEIGHTS: np.zeros(D + 1, np.float32)}, r"\(65,\); wanted float32 \(64,\)"),
        ({WEIGHTS: np.zeros(D, np.float64)}, "float64"),
        ({WEIGHTS: np.full(D, np.nan, np.float32)}, "NaN"),
        ({VECTOR: np.ones(D, np.float32)}, r"norm 8\.0"),
        ({"probe.other.weights": np.zeros(D, np.float32)}, r"unexpected \['probe\.other\.weights'\]"),
        ({WEIGHTS: None}, r"missing \['probe\.deception\.weights'\]"),
    ],
)
def test_tensors_that_differ_from_the_manifest_are_neither_written_nor_read(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    tensors = {k: v for k, v in (make_tensors() | change).items() if v is not None}
    with pytest.raises(BundleFormatError, match=message):
        write_bundle(tmp_path / "new", make_manifest(), tensors)
    assert not (tmp_path / "new").exists()
    good = write_bundle(tmp_path / "good", make_manifest(), make_tensors())
    save_file(tensors, good.path / "tensors.safetensors")
    reseal(good.path)
    with pytest.raises(BundleFormatError, match=message):
        read_bundle(good.path)


def test_a_layer_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    manifest = make_manifest()
    deep = manifest.model_copy(update={"probes": (manifest.probes[0].model_copy(update={"layer": 3}),)})
    with pytest.raises(BundleFormatError, match="deception is at layer 3; the model has layers 0 to 2"):
        write_bundle(tmp_path / "new", deep, make_tensors())


def test_a_bundle_is_overwritten_only_on_request_and_nothing_is_left_behind(bundle: Bundle) -> None:
    with pytest.raises(BundleFormatError, match="overwrite"):
        write_bundle(bundle.path, make_manifest(), make_tensors())
    renamed = make_manifest().model_copy(update={"version": "2"})
    assert write_bundle(bundle.path, renamed, make_tensors(), overwrite=True).manifest.version == "2"
    assert [p.name for p in bundle.path.parent.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleFormatError, match=r"thesis\.tex"):
        write_bundle(tmp_path, make_manifest(), make_tensors(), overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_write_that_fails_leaves_the_old_bundle(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError("disk full")
        return original(self, target)

    original = Path.rename
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bundle(bundle.path, make_manifest(), make_tensors(), overwrite=True)
    monkeypatch.undo()
    assert read_bundle(bundle.path).digest == bundle.digest
    assert [p.name for p in bundle.path.parent.iterdir()] == ["bundle"]


def test_the_model_it_was_made_for_is_accepted(tmp_path: Path, model_dir: Path) -> None:
    bundle = write_bundle(tmp_path / "b", make_manifest(fingerprint_model(model_dir)), make_tensors())
    check_model(bundle, model_dir)


def test_another_model_is_refused_naming_what_differs(tmp_path: Path, model_dir: Path, other_model_dir: Path) -> None:
    bundle = write_bundle(tmp_path / "b", make_manifest(fingerprint_model(model_dir)), make_tensors())
    with pytest.raises(ModelMismatchError, match=r"weights differs\. It belongs to 'tiny'"):
        check_model(bundle, other_model_dir)


def test_reading_a_bundle_needs_no_torch(bundle: Bundle) -> None:
    code = (
        "import sys; from pathlib import Path; from probes.bundle import read_bundle; import probes.fingerprint, "
        "probes.scope, probes.cli; read_bundle(Path(sys.argv[1])); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'sklearn')))"
    )
    subprocess.run([sys.executable, "-c", code, str(bundle.path)], check=True)


def test_replacing_a_bundle_keeps_its_readme_and_an_interrupt_keeps_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle"
    first = write_bundle(path, make_manifest(), make_tensors())
    (path / "README.md").write_text("for people")
    write_bundle(path, make_manifest(), make_tensors(), overwrite=True)
    assert (path / "README.md").read_text() == "for people"
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(path, make_manifest(), make_tensors(), overwrite=True)
    assert read_bundle(path).digest == first.digest
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
