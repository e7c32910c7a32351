"""Read a bundle: files, signature, sums, schema, tensors, in this order, each before the next is looked at."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from probes.bundle.artifact import Bundle
from probes.bundle.contents import check_contents
from probes.bundle.files import read_files
from probes.bundle.keys import TrustedKeys
from probes.bundle.layout import CARD_FILE, MANIFEST_FILE, SIGNATURE_FILE, SUMS_FILE, TENSOR_FILE, Files
from probes.bundle.parse import parse_card, parse_manifest, parse_tensors
from probes.bundle.signature import check_signature, parse_signature
from probes.bundle.sums import check_sums, sha256


def read_bundle(path: Path, *, trusted: TrustedKeys | None = None) -> Bundle:
    """Read a bundle and check everything that can be checked without the model.

    Args:
        path: its folder.
        trusted: keys of which one must have signed it; None asks for no signature.

    Raises:
        BundleFormatError: missing, unexpected or altered files, no signature of a trusted key where one is wanted,
            another schema version, or tensors that differ from the manifest; the message says what differs and what
            to do.
    """
    return bundle_of(path, read_files(path), trusted)


def bundle_of(path: Path, files: Files, trusted: TrustedKeys | None = None) -> Bundle:
    """The bundle that these bytes are; nothing is read from ``path``, which only names it."""
    signature = parse_signature(path, files[SIGNATURE_FILE]) if SIGNATURE_FILE in files else None
    signed_by = None if trusted is None else check_signature(path, files[SUMS_FILE], signature, trusted)
    check_sums(path, files)
    manifest = parse_manifest(path, files[MANIFEST_FILE])
    tensors = parse_tensors(path, files[TENSOR_FILE])
    check_contents(path, manifest, tensors)
    return Bundle(
        path=path,
        manifest=manifest,
        tensors=MappingProxyType(tensors),
        digest=sha256(files[SUMS_FILE]),
        card=parse_card(path, files[CARD_FILE]) if CARD_FILE in files else None,
        signature=signature,
        signed_by=signed_by,
    )
