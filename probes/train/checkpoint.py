"""What a training run keeps on disk, so that it can go on where it was interrupted.

A stage's result is one safetensors file: tensors, and JSON in its metadata. It is written under another
name and renamed when whole. Names contain a key of everything that the result depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

Result = tuple[dict[str, object], dict[str, Tensor]]


def key_of(*parts: object) -> str:
    """A short hash of what a result depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Checkpoints:
    """Results of stages in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def stage(self, name: str, compute: Callable[[], Result]) -> Result:
        """The stage's result: read back if it is there, else computed and kept."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            facts, tensors = compute()
            self._write(path, facts, tensors)
        return self._read(path)

    def _write(self, path: Path, facts: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata={"facts": json.dumps(facts)})
        partial.rename(path)

    def _read(self, path: Path) -> Result:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            return json.loads(file.metadata()["facts"]), tensors
