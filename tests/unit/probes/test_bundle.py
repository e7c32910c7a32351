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

from probes.bundle import Bundle, check_model, read_bundle, write_bundle
from probes.errors import BundleFormatError, ModelMismatchError
from probes.fingerprint import fingerprint_model
from probes.types import (
    Calibration,
    Direction,
    Fingerprint,
    FoldKind,
    FoldSpec,
    Histogram,
    Manifest,
    ModelInfo,
    Probe,
    RoleMarkers,
    Scope,
    Threshold,
)

D = 64


def make_manifest(fingerprint: Fingerprint | None = None) -> Manifest:
    probe = Probe(
        name="deception",
        concept="deception",
        layer=1,
        bias=-0.5,
        fold=FoldSpec(kind=FoldKind.MEAN, min_tokens=3),
        scope=Scope.RESPONSE,
        thresholds=(Threshold(value=1.25, fpr=0.01, measured_fpr=0.005, n_negatives=400, data="validation"),),
        calibration=Calibration(slope=1.0, intercept=-1.0),
        reference=Histogram(edges=(0.0, 1.0), counts=(400,)),
    )
    direction = Direction(name="refusal", concept="refusal", layer=0, magnitude=2.0, position="last_prompt_token")
    return Manifest(
        name="test",
        version="1",
        created="2026-01-01T00:00:00+00:00",
        model=ModelInfo(
            name="tiny",
            architecture="LlamaForCausalLM",
            n_layers=3,
            d_model=D,
            fingerprint=fingerprint or Fingerprint(config="a", tokenizer="b", chat_template="c", weights="d"),
            markers=RoleMarkers(user=(4,)),
        ),
        probes=(probe,),
        directions=(direction,),
    )


def make_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    unit = rng.normal(size=D)
    return {
        "probe.deception.weights": rng.normal(size=D).astype(np.float32),
        "direction.refusal.vector": (unit / np.linalg.norm(unit)).astype(np.float32),
    }


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle", make_manifest(), make_tensors())


def reseal(path: Path) -> None:
    """Make the checksums true again, as somebody who edits a bundle by hand would."""
    names = ("bundle.json", "tensors.safetensors")
    lines = [f"{hashlib.sha256((path / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    (path / "SHA256SUMS").write_text("".join(lines))


def test_a_bundle_reads_back_as_it_was_written(bundle: Bundle) -> None:
    again = read_bundle(bundle.path)
    assert again.manifest == make_manifest()
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


@pytest.mark.parametrize("name", ["bundle.json", "tensors.safetensors", "SHA256SUMS"])
def test_one_altered_byte_is_refused_naming_the_file(bundle: Bundle, name: str) -> None:
    data = bytearray((bundle.path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / name).write_bytes(data)
    with pytest.raises(BundleFormatError, match=r"altered|lists"):
        read_bundle(bundle.path)


@pytest.mark.parametrize("name", ["bundle.json", "tensors.safetensors", "SHA256SUMS"])
def test_a_missing_file_is_refused_naming_it(bundle: Bundle, name: str) -> None:
    (bundle.path / name).unlink()
    with pytest.raises(BundleFormatError, match=name):
        read_bundle(bundle.path)


def test_a_file_that_belongs_to_no_bundle_is_refused_but_a_readme_and_a_signature_are_not(bundle: Bundle) -> None:
    (bundle.path / "README.md").write_text("about this bundle")
    (bundle.path / "bundle.sig").write_bytes(b"signature")
    read_bundle(bundle.path)
    (bundle.path / "weights.pkl").write_bytes(b"")
    with pytest.raises(BundleFormatError, match=r"weights\.pkl"):
        read_bundle(bundle.path)


def test_another_schema_version_is_refused_naming_both(bundle: Bundle) -> None:
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    (bundle.path / "bundle.json").write_text(json.dumps(manifest | {"schema_version": 2}))
    reseal(bundle.path)
    with pytest.raises(BundleFormatError, match=r"schema version 2; this Plumbline reads 1"):
        read_bundle(bundle.path)


def test_an_unknown_field_in_the_manifest_is_refused(bundle: Bundle) -> None:
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    (bundle.path / "bundle.json").write_text(json.dumps(manifest | {"surprise": 1}))
    reseal(bundle.path)
    with pytest.raises(BundleFormatError, match="surprise"):
        read_bundle(bundle.path)


WEIGHTS, VECTOR = "probe.deception.weights", "direction.refusal.vector"


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
    from safetensors.numpy import save_file

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
