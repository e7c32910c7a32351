"""Whether a manifest and its tensors fit together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from probes.bundle.layout import Tensors, direction_tensor, probe_tensor, query_tensor
from probes.errors import BundleFormatError
from probes.types import FoldKind, Manifest, Probe

_NORM_TOLERANCE = 1e-4


def check_contents(path: Path, manifest: Manifest, tensors: Tensors) -> None:
    """Exactly the manifest's tensors, each of shape ``(d_model,)``, fp32 and finite; directions of unit norm.

    Raises:
        BundleFormatError: otherwise; the message names the first that does not fit.
    """
    names = _wanted(manifest)
    if doubled := sorted({n for n in names if names.count(n) > 1}):
        raise BundleFormatError(f"{path}: the manifest names {', '.join(doubled)} twice.")
    if tensors.keys() != set(names):
        missing, extra = sorted(set(names) - tensors.keys()), sorted(tensors.keys() - set(names))
        raise BundleFormatError(f"{path}: tensors differ from the manifest: missing {missing}, unexpected {extra}.")
    layers = [(p.name, p.layer) for p in manifest.probes] + [(d.name, d.layer) for d in manifest.directions]
    for name, layer in layers:
        if layer >= manifest.model.n_layers:
            raise BundleFormatError(
                f"{path}: {name} is at layer {layer}; the model has layers 0 to {manifest.model.n_layers - 1}."
            )
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or tensor.shape != (manifest.model.d_model,):
            raise BundleFormatError(
                f"{path}: {name} is {tensor.dtype} {tensor.shape}; wanted float32 ({manifest.model.d_model},)."
            )
        if not np.isfinite(tensor).all():
            raise BundleFormatError(f"{path}: {name} holds NaN or infinity; train it anew.")
    for direction in manifest.directions:
        norm = float(np.linalg.norm(tensors[direction_tensor(direction.name)].astype(np.float64)))
        if abs(norm - 1.0) > _NORM_TOLERANCE:
            raise BundleFormatError(f"{path}: direction {direction.name} has norm {norm:.6f}; wanted 1.")


def attends(probe: Probe) -> bool:
    """Whether this probe has a second tensor, its query."""
    return probe.fold.kind is FoldKind.ATTENTION


def _wanted(manifest: Manifest) -> list[str]:
    names = [probe_tensor(p.name) for p in manifest.probes]
    names += [query_tensor(p.name) for p in manifest.probes if attends(p)]
    return names + [direction_tensor(d.name) for d in manifest.directions]
