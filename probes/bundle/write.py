"""Write a bundle; it is unsigned, see :mod:`probes.bundle.sign`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel
from safetensors.numpy import save as save_tensors

from probes.bundle.artifact import Bundle
from probes.bundle.contents import check_contents
from probes.bundle.files import check_target, write_files
from probes.bundle.layout import CARD_FILE, MANIFEST_FILE, SUMS_FILE, TENSOR_FILE, Tensors
from probes.bundle.read import read_bundle
from probes.bundle.sums import make_sums
from probes.cards import Card
from probes.types import Manifest


def write_bundle(
    path: Path, manifest: Manifest, tensors: Tensors, *, card: Card | None = None, overwrite: bool = False
) -> Bundle:
    """Write a bundle as a whole or not at all.

    Args:
        path: the directory to make.
        manifest: checked against the tensors before anything is written.
        tensors: by tensor name, each ``(d_model,)`` fp32.
        card: what was measured; None writes no card.
        overwrite: replace a bundle that is there, with its signature; never anything that is not a bundle.

    Returns:
        The bundle as :func:`read_bundle` reads it.

    Raises:
        BundleFormatError: manifest and tensors do not fit, a file is too large, or ``path`` is taken.
    """
    check_contents(path, manifest, tensors)
    check_target(path, overwrite=overwrite)
    files = {MANIFEST_FILE: _json(manifest)}
    if card is not None:
        files[CARD_FILE] = _json(card)
    files[TENSOR_FILE] = save_tensors({k: np.ascontiguousarray(v) for k, v in sorted(tensors.items())})
    files[SUMS_FILE] = make_sums(files)
    write_files(path, files)
    return read_bundle(path)


def _json(model: BaseModel) -> bytes:
    return (model.model_dump_json(indent=2) + "\n").encode()
