"""An attention probe in a bundle: its second tensor is required, checked and bound to the kind of its fold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from probes.bundle import probe_tensor, query_tensor, read_bundle, write_bundle
from probes.errors import BundleFormatError
from probes.types import FoldKind, FoldSpec, Manifest, ModelInfo, RoleMarkers, Scope
from tests.support.tiny import FINGERPRINT, make_probe

D = 16
QUERY = query_tensor("attentive")


def make_manifest(kind: FoldKind = FoldKind.ATTENTION) -> Manifest:
    info = ModelInfo(
        name="tiny", architecture="Llama", n_layers=1, d_model=D, fingerprint=FINGERPRINT, markers=RoleMarkers()
    )
    probes = (
        make_probe("attentive", 0, FoldSpec(kind=kind), Scope.RESPONSE, 0.0),
        make_probe("plain", 0, FoldSpec(kind=FoldKind.MEAN), Scope.RESPONSE, 0.0),
    )
    return Manifest(name="t", version="1", created="2026-01-01T00:00:00Z", model=info, probes=probes, directions=())


def make_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = (probe_tensor("attentive"), QUERY, probe_tensor("plain"))
    return {name: rng.normal(size=D).astype(np.float32) for name in names}


def test_the_query_of_an_attention_probe_reads_back_as_it_was_written(tmp_path: Path) -> None:
    bundle = read_bundle(write_bundle(tmp_path / "b", make_manifest(), make_tensors()).path)
    np.testing.assert_array_equal(bundle.probe_query("attentive"), make_tensors()[QUERY])
    np.testing.assert_array_equal(bundle.probe_weights("attentive"), make_tensors()[probe_tensor("attentive")])


def test_asking_for_the_query_of_another_probe_names_the_probes_that_have_one(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", make_manifest(), make_tensors())
    with pytest.raises(KeyError, match=r"no probe\.plain\.query; it has attentive"):
        bundle.probe_query("plain")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (FoldKind.ATTENTION, {QUERY: None}, r"missing \['probe\.attentive\.query'\]"),
        (FoldKind.SOFTMAX, {}, r"unexpected \['probe\.attentive\.query'\]"),
        (FoldKind.ATTENTION, {QUERY: np.zeros(D + 1, np.float32)}, r"query is float32 \(17,\); wanted float32 \(16,\)"),
        (FoldKind.ATTENTION, {QUERY: np.zeros(D, np.float64)}, "query is float64"),
        (FoldKind.ATTENTION, {QUERY: np.full(D, np.inf, np.float32)}, "query holds NaN or infinity"),
    ],
)
def test_a_query_that_does_not_fit_the_manifest_is_refused(
    tmp_path: Path, kind: FoldKind, change: dict[str, np.ndarray | None], message: str
) -> None:
    tensors = {name: tensor for name, tensor in (make_tensors() | change).items() if tensor is not None}
    with pytest.raises(BundleFormatError, match=message):
        write_bundle(tmp_path / "b", make_manifest(kind), tensors)
