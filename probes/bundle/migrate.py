"""Convert a bundle of an earlier schema version, explicitly and into a new folder.

From 1 to 2: what was measured moves from ``card`` in the manifest, which had no schema, into ``card.json``. Note,
advice and data become the card's own, everything else is kept under its ``settings``. The tensors stay as they are.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from probes.bundle.artifact import Bundle
from probes.bundle.files import read_files
from probes.bundle.layout import CARD_FILE, MANIFEST_FILE, SUMS_FILE, TENSOR_FILE
from probes.bundle.parse import parse_json, parse_tensors, schema_version
from probes.bundle.problems import problems
from probes.bundle.sums import check_sums, sha256
from probes.bundle.write import write_bundle
from probes.cards import Card
from probes.errors import BundleFormatError
from probes.types import SCHEMA_VERSION, Manifest

_OWN = ("note", "advice", "data")


def migrate_bundle(old: Path, new: Path, *, overwrite: bool = False) -> Bundle:
    """Read a bundle of schema version 1 and write it as one of this version, unsigned.

    Args:
        old: it is read, checked against its sums, and left as it is.
        new: folder to make. overwrite: replace a bundle that is there.

    Raises:
        BundleFormatError: ``old`` is altered, of this version or of a newer one, or does not fit its own schema; or
            ``new`` is taken.
    """
    files = read_files(old)
    check_sums(old, files)
    raw = parse_json(old / MANIFEST_FILE, files[MANIFEST_FILE])
    version = schema_version(old, raw)
    if version >= SCHEMA_VERSION:
        why = (
            "which is this Plumbline's: nothing to convert" if version == SCHEMA_VERSION else "of a newer one: upgrade"
        )
        raise BundleFormatError(f"{old} has schema version {version}, {why}.")
    if CARD_FILE in files:
        raise BundleFormatError(
            f"{old} holds {CARD_FILE}, which no bundle of schema version 1 has; nothing is converted."
        )
    try:
        card = _card(raw.pop("card", {}), sha256(files[SUMS_FILE]))
        manifest = Manifest.model_validate(raw | {"schema_version": SCHEMA_VERSION})
    except ValidationError as error:
        raise BundleFormatError(f"{old / MANIFEST_FILE} does not fit schema version 1: {problems(error)}") from error
    return write_bundle(new, manifest, parse_tensors(old, files[TENSOR_FILE]), card=card, overwrite=overwrite)


def _card(measured: object, digest: str) -> Card:
    """The card of version 2 from the free object of version 1."""
    found = measured if isinstance(measured, dict) else {"card": measured}
    settings = {key: value for key, value in found.items() if key not in _OWN}
    settings["migrated_from"] = {"schema_version": 1, "digest": digest}
    return Card.model_validate({key: found[key] for key in _OWN if key in found} | {"settings": settings})
