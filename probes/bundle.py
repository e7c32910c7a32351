"""Write, read and verify a bundle: a directory of three files.

    bundle.json           the manifest (:class:`probes.types.Manifest`)
    tensors.safetensors   ``probe.<name>.weights``, ``probe.<name>.query`` (of an attention probe) and
                          ``direction.<name>.vector``, each ``(d_model,)`` fp32
    SHA256SUMS            SHA-256 of the two, in the format of ``sha256sum -c``

``bundle.sig`` and a README may stand beside them; anything else is refused. Importable without torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from probes.errors import BundleFormatError, ModelMismatchError
from probes.fingerprint import fingerprint_model
from probes.types import SCHEMA_VERSION, Fingerprint, FoldKind, Manifest, Probe

MANIFEST_FILE = "bundle.json"
TENSOR_FILE = "tensors.safetensors"
SUMS_FILE = "SHA256SUMS"
_REQUIRED = frozenset({MANIFEST_FILE, TENSOR_FILE, SUMS_FILE})
_OPTIONAL = frozenset({"bundle.sig", "README", "README.md"})
_NORM_TOLERANCE = 1e-4

Tensors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory.

    Attributes:
        path: the directory it was read from.
        manifest: everything but the tensors.
        tensors: read-only arrays by tensor name, each ``(d_model,)`` fp32.
        digest: SHA-256 in hex of the SHA256SUMS file: the bundle's identity.
    """

    path: Path
    manifest: Manifest
    tensors: Tensors
    digest: str

    def probe_weights(self, name: str) -> NDArray[np.float32]:
        """Weights of the probe ``name``: ``(d_model,)`` fp32. KeyError names the known probes."""
        return self._tensor(probe_tensor(name), [p.name for p in self.manifest.probes])

    def probe_query(self, name: str) -> NDArray[np.float32]:
        """Query column of the attention probe ``name``: ``(d_model,)`` fp32. KeyError names the attention probes."""
        return self._tensor(query_tensor(name), [p.name for p in self.manifest.probes if _attends(p)])

    def direction_vector(self, name: str) -> NDArray[np.float32]:
        """Unit vector of the direction ``name``: ``(d_model,)`` fp32. KeyError names the known directions."""
        return self._tensor(direction_tensor(name), [d.name for d in self.manifest.directions])

    def _tensor(self, key: str, known: list[str]) -> NDArray[np.float32]:
        try:
            return self.tensors[key]
        except KeyError:
            raise KeyError(f"the bundle has no {key}; it has {', '.join(known) or 'none'}") from None


def probe_tensor(name: str) -> str:
    """Name of a probe's tensor."""
    return f"probe.{name}.weights"


def query_tensor(name: str) -> str:
    """Name of an attention probe's second tensor."""
    return f"probe.{name}.query"


def direction_tensor(name: str) -> str:
    """Name of a direction's tensor."""
    return f"direction.{name}.vector"


def write_bundle(path: Path, manifest: Manifest, tensors: Tensors, *, overwrite: bool = False) -> Bundle:
    """Write a bundle as a whole or not at all: into a temporary folder beside ``path``, then renamed.

    Args:
        path: the directory to make.
        manifest: checked against the tensors before anything is written.
        tensors: by tensor name, each ``(d_model,)`` fp32.
        overwrite: replace a bundle that is there; never anything that is not a bundle.

    Returns:
        The bundle as :func:`read_bundle` reads it.

    Raises:
        BundleFormatError: manifest and tensors do not fit, or ``path`` is taken.
    """
    _check_contents(path, manifest, tensors)
    _check_target(path, overwrite)
    files = {
        MANIFEST_FILE: (manifest.model_dump_json(indent=2) + "\n").encode(),
        TENSOR_FILE: save_tensors({k: np.ascontiguousarray(v) for k, v in sorted(tensors.items())}),
    }
    files[SUMS_FILE] = "".join(f"{_sha256(data)}  {name}\n" for name, data in files.items()).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        fresh = scratch / "new"
        fresh.mkdir()
        for name, data in files.items():
            _write_durably(fresh / name, data)
        if path.exists():
            path.rename(scratch / "old")
        fresh.rename(path)
    except OSError:
        if (scratch / "old").exists() and not path.exists():
            (scratch / "old").rename(path)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return read_bundle(path)


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and check everything that can be checked without the model.

    Raises:
        BundleFormatError: missing, unexpected or altered files, another schema version, or tensors that
            differ from the manifest; the message says what differs and what to do.
    """
    files = _read_files(path)
    sums = _parse_sums(path, files[SUMS_FILE])
    for name, wanted in sums.items():
        if (found := _sha256(files[name])) != wanted:
            raise BundleFormatError(
                f"{path / name} was altered: SHA-256 is {found[:12]}…, {SUMS_FILE} says {wanted[:12]}…. "
                "Copy the bundle again from where it was made, or train it anew."
            )
    manifest = _parse_manifest(path, files[MANIFEST_FILE])
    try:
        tensors = load_tensors(files[TENSOR_FILE])
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleFormatError(f"{path / TENSOR_FILE} is not a readable safetensors file: {error}") from error
    _check_contents(path, manifest, tensors)
    for tensor in tensors.values():
        tensor.setflags(write=False)
    return Bundle(path=path, manifest=manifest, tensors=MappingProxyType(tensors), digest=_sha256(files[SUMS_FILE]))


def check_model(bundle: Bundle, model_dir: Path) -> None:
    """Check that ``bundle`` was made for the model in ``model_dir``.

    Raises:
        ModelMismatchError: it was not; the message names which of config, tokenizer, chat_template and
            weights differ.
        ModelFormatError: ``model_dir`` is no model folder.
    """
    wanted, found = bundle.manifest.model.fingerprint, fingerprint_model(model_dir)
    differing = [f for f in Fingerprint.model_fields if getattr(wanted, f) != getattr(found, f)]
    if differing:
        raise ModelMismatchError(
            f"bundle {bundle.manifest.name!r} ({bundle.path}) was made for another model than {model_dir}: "
            f"{', '.join(differing)} {'differs' if len(differing) == 1 else 'differ'}. "
            f"It belongs to {bundle.manifest.model.name!r}. Serve that model, or train a bundle for this one: "
            f"plumbline train --model {model_dir} --data DIR --out BUNDLE"
        )


def _check_target(path: Path, overwrite: bool) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise BundleFormatError(f"{path} is a file; give the name of a folder to make.")
    strangers = sorted(p.name for p in path.iterdir() if p.name not in _REQUIRED | _OPTIONAL)
    if strangers:
        raise BundleFormatError(f"{path} holds {', '.join(strangers[:5])} and is no bundle; it is left alone.")
    if not overwrite and any(path.iterdir()):
        raise BundleFormatError(f"{path} holds a bundle already; give another name, or ask to overwrite it.")


def _read_files(path: Path) -> dict[str, bytes]:
    if not path.is_dir():
        raise BundleFormatError(f"{path} is not a folder; give the folder that holds {MANIFEST_FILE}.")
    # Kubernetes mounts volumes with bookkeeping entries whose names begin with "..".
    present = {p.name for p in path.iterdir() if not p.name.startswith("..")}
    if missing := sorted(_REQUIRED - present):
        raise BundleFormatError(f"{path} is not a bundle: it lacks {', '.join(missing)}.")
    if extra := sorted(present - _REQUIRED - _OPTIONAL):
        raise BundleFormatError(f"{path} holds files that belong to no bundle: {', '.join(extra)}. Remove them.")
    try:
        return {name: (path / name).read_bytes() for name in _REQUIRED}
    except OSError as error:
        raise BundleFormatError(f"{path} cannot be read: {error}") from error


def _parse_sums(path: Path, data: bytes) -> dict[str, str]:
    sums: dict[str, str] = {}
    for line in data.decode("utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        sums[name] = digest
    if sums.keys() != {MANIFEST_FILE, TENSOR_FILE} or len(data.splitlines()) != len(sums):
        raise BundleFormatError(
            f"{path / SUMS_FILE} lists {sorted(sums)}; wanted one line each for {MANIFEST_FILE} and {TENSOR_FILE}."
        )
    return sums


def _parse_manifest(path: Path, data: bytes) -> Manifest:
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise BundleFormatError(f"{path / MANIFEST_FILE} is not JSON: {error}") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleFormatError(
            f"{path / MANIFEST_FILE} has schema version {version!r}; this Plumbline reads {SCHEMA_VERSION}. "
            "Install the Plumbline that wrote it, or train the bundle anew."
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise BundleFormatError(f"{path / MANIFEST_FILE} does not fit the schema: {error}") from error


def _check_contents(path: Path, manifest: Manifest, tensors: Tensors) -> None:
    """Exactly the manifest's tensors, each of shape ``(d_model,)``, fp32 and finite; directions of unit norm."""
    names = [probe_tensor(p.name) for p in manifest.probes]
    names += [query_tensor(p.name) for p in manifest.probes if _attends(p)]
    names += [direction_tensor(d.name) for d in manifest.directions]
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


def _attends(probe: Probe) -> bool:
    return probe.fold.kind is FoldKind.ATTENTION


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
