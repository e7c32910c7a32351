"""The bytes of a bundle's files as manifest, card and tensors; each error says which file and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from pydantic_core import from_json
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from probes.bundle.layout import CARD_FILE, MANIFEST_FILE, TENSOR_FILE
from probes.bundle.problems import problems
from probes.cards import CARD_VERSION, Card
from probes.errors import BundleFormatError
from probes.types import SCHEMA_VERSION, Manifest

_UPGRADE = "It comes from a newer Plumbline: upgrade this one."


def parse_manifest(path: Path, data: bytes) -> Manifest:
    """``bundle.json`` of the folder ``path``.

    Raises:
        BundleFormatError: no JSON, an older or newer schema, or it does not fit the schema.
    """
    version = schema_version(path, parse_json(path / MANIFEST_FILE, data))
    if version != SCHEMA_VERSION:
        remedy = f"Convert it: plumbline bundle migrate {path} NEW" if version < SCHEMA_VERSION else _UPGRADE
        raise BundleFormatError(
            f"{path / MANIFEST_FILE} has schema version {version}; this Plumbline reads {SCHEMA_VERSION}. {remedy}"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise BundleFormatError(f"{path / MANIFEST_FILE} does not fit the schema: {problems(error)}") from error


def parse_card(path: Path, data: bytes) -> Card:
    """``card.json`` of the folder ``path``.

    Raises:
        BundleFormatError: no JSON, a newer card, or it does not fit the schema.
    """
    version = parse_json(path / CARD_FILE, data).get("version")
    if isinstance(version, int) and version > CARD_VERSION:
        raise BundleFormatError(
            f"{path / CARD_FILE} has version {version}; this Plumbline reads {CARD_VERSION}. {_UPGRADE}"
        )
    try:
        return Card.model_validate_json(data)
    except ValidationError as error:
        raise BundleFormatError(f"{path / CARD_FILE} does not fit the schema: {problems(error)}") from error


def parse_tensors(path: Path, data: bytes) -> dict[str, NDArray[np.float32]]:
    """``tensors.safetensors`` of the folder ``path``, read-only; types and shapes are not checked yet.

    Raises:
        BundleFormatError: truncated, or no safetensors file.
    """
    try:
        tensors: dict[str, NDArray[np.float32]] = load_tensors(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleFormatError(f"{path / TENSOR_FILE} is not a readable safetensors file: {error}") from error
    for tensor in tensors.values():
        tensor.setflags(write=False)
    return tensors


def parse_json(file: Path, data: bytes) -> dict[str, object]:
    """A JSON object. pydantic's parser stops at 200 levels, where the standard library's exhausts the stack.

    Raises:
        BundleFormatError: something else, or nested deeper.
    """
    try:
        raw = from_json(data)
    except ValueError as error:
        raise BundleFormatError(f"{file} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise BundleFormatError(f"{file} holds a JSON {type(raw).__name__}; wanted an object.")
    return raw


def schema_version(path: Path, raw: dict[str, object]) -> int:
    """The schema version that a manifest states.

    Raises:
        BundleFormatError: it states none.
    """
    version = raw.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BundleFormatError(
            f"{path / MANIFEST_FILE} has schema version {version!r}; wanted a number. It is no manifest of a bundle."
        )
    return version
