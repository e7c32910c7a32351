"""Sign a bundle that lies on the disk."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from probes.bundle.artifact import Bundle
from probes.bundle.files import read_files, write_durably
from probes.bundle.layout import SIGNATURE_FILE, SUMS_FILE
from probes.bundle.read import bundle_of, read_bundle
from probes.bundle.signature import make_signature
from probes.errors import BundleFormatError

# Readers pass over names that begin so: nobody sees half a signature.
_UNFINISHED = f"..{SIGNATURE_FILE}"


def sign_bundle(path: Path, key: Ed25519PrivateKey, *, replace: bool = False) -> Bundle:
    """Put ``bundle.sig`` into the bundle at ``path``, once everything in it has been checked.

    Args:
        path: of the bundle. key: to sign with.
        replace: whether a signature that is there may be replaced, whatever it is.

    Returns:
        The bundle, read again with this key as the only one that is trusted.

    Raises:
        BundleFormatError: the bundle cannot be used, or it has a signature already.
    """
    files = read_files(path)
    if files.pop(SIGNATURE_FILE, None) is not None and not replace:
        raise BundleFormatError(f"{path} has a signature already; ask to replace it (--replace) if that is meant.")
    bundle_of(path, files)
    unfinished = path / _UNFINISHED
    unfinished.unlink(missing_ok=True)  # left behind, or laid there as a trap
    try:
        write_durably(unfinished, make_signature(files[SUMS_FILE], key))
        unfinished.replace(path / SIGNATURE_FILE)
    finally:
        unfinished.unlink(missing_ok=True)
    return read_bundle(path, trusted=[key.public_key()])
