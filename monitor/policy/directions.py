"""Directions that are loaded into a running engine: a folder of bundles, looked at whenever one is named.

``PLUMBLINE_DIRECTIONS`` (``--directions``) names the folder; each of its sub-folders is a bundle for the same model,
with or without probes. A steering names ``folder:direction``; the monitor writes ``folder:direction@digest`` into the
plan, so that the engine loads exactly that content or refuses, and the cache salt covers it.

Runs in: the monitor (:class:`Directions`) and the engine (:func:`read_loaded`).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monitor.errors import PlanError
from probes.bundle import SUMS_FILE, Bundle, TrustedKeys, read_bundle
from probes.errors import BundleError
from probes.types import Direction, Fingerprint

_DIGEST_LENGTH = 16  # hex digits of the digest in a qualified name
_FOLDER = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_NAME = r"[a-z][a-z0-9_]{0,63}"
_PLAIN = re.compile(f"({_FOLDER}):({_NAME})")
_QUALIFIED = re.compile(f"({_FOLDER}):({_NAME})@([0-9a-f]{{{_DIGEST_LENGTH}}})")


def is_loaded(name: str) -> bool:
    """Whether this name is one of a loaded direction, as against one of the engine's own bundle."""
    return ":" in name


def read_loaded(
    folder: Path | None, qualified: str, trusted: TrustedKeys | None = None
) -> tuple[Direction, NDArray[np.float32]]:
    """The direction that a plan names, from exactly the files that the monitor saw.

    Args:
        folder: of the bundles (``PLUMBLINE_DIRECTIONS``), or None.
        qualified: ``folder:direction@digest``.
        trusted: keys of which one must have signed the bundle; None asks for no signature.

    Returns:
        The direction, and its unit vector: ``(d_model,)`` fp32, read-only.

    Raises:
        PlanError: the name is malformed, there is no such direction, or its files are others than the plan names.
    """
    found = _QUALIFIED.fullmatch(qualified)
    if found is None:
        raise PlanError(f"direction: got {qualified!r}, wanted folder:direction@digest; let the monitor write it")
    name, direction, wanted = found.groups()
    bundle = _read(_sub_folder(folder, name), trusted)
    if bundle.digest[:_DIGEST_LENGTH] != wanted:
        raise PlanError(
            f"direction {qualified}: the files in {bundle.path} are others ({bundle.digest[:_DIGEST_LENGTH]}); give "
            "monitor and engine the same folder, or send the request again if it has just been replaced"
        )
    return _direction(bundle, direction), bundle.direction_vector(direction)


class Directions:
    """What may be loaded now; a folder that is new or has changed is seen without a restart.

    A bundle is read again only when its SHA256SUMS file has changed.
    """

    def __init__(self, folder: Path | None, model: Fingerprint, trusted: TrustedKeys | None = None) -> None:
        self._trusted = trusted
        self._folder = folder
        self._model = model
        self._known: dict[str, tuple[str, Bundle]] = {}

    def resolve(self, name: str) -> tuple[Direction, str]:
        """A loaded direction, and its name in a plan.

        Args:
            name: ``folder:direction``.

        Returns:
            The direction, and ``folder:direction@digest``.

        Raises:
            PlanError: no such folder or direction (the message lists those there), altered files, or another model.
        """
        found = _PLAIN.fullmatch(name)
        if found is None:
            raise PlanError(f"got {name!r}, wanted folder:direction; the monitor adds the digest itself")
        bundle = self._bundle(found[1])
        direction = _direction(bundle, found[2])
        return direction, f"{name}@{bundle.digest[:_DIGEST_LENGTH]}"

    def _bundle(self, name: str) -> Bundle:
        path = _sub_folder(self._folder, name)
        try:
            digest = hashlib.sha256((path / SUMS_FILE).read_bytes()).hexdigest()
        except OSError as error:
            raise PlanError(f"{path / SUMS_FILE} cannot be read: {error.strerror}") from error
        known, bundle = self._known.get(name, ("", None))
        if bundle is None or known != digest:
            bundle = _read(path, self._trusted)
            self._check_model(bundle)
            self._known[name] = bundle.digest, bundle
        return bundle

    def _check_model(self, bundle: Bundle) -> None:
        theirs = bundle.manifest.model.fingerprint
        differing = [f for f in Fingerprint.model_fields if getattr(theirs, f) != getattr(self._model, f)]
        if differing:
            raise PlanError(
                f"{bundle.path} was made for another model ({bundle.manifest.model.name!r}): {', '.join(differing)} "
                f"{'differs' if len(differing) == 1 else 'differ'}; make its directions anew for this one"
            )


def _sub_folder(folder: Path | None, name: str) -> Path:
    """The folder of one bundle; its name has been checked, so that it cannot lead elsewhere."""
    if folder is None:
        raise PlanError(
            f"got the folder {name!r}, but no directions are loaded; set --directions (PLUMBLINE_DIRECTIONS)"
        )
    path = folder / name
    if not path.is_dir():
        entries = folder.iterdir() if folder.is_dir() else ()
        there = sorted(entry.name for entry in entries if entry.is_dir() and re.fullmatch(_FOLDER, entry.name))
        raise PlanError(f"got the folder {name!r}, those in {folder} are {', '.join(there) or '(none)'}")
    return path


def _read(path: Path, trusted: TrustedKeys | None) -> Bundle:
    try:
        return read_bundle(path, trusted=trusted)
    except BundleError as error:
        raise PlanError(str(error)) from error


def _direction(bundle: Bundle, name: str) -> Direction:
    direction = bundle.manifest.direction(name)
    if direction is None:
        known = ", ".join(d.name for d in bundle.manifest.directions) or "(none)"
        raise PlanError(f"got {name!r}, the directions in {bundle.path} are {known}")
    return direction
