"""``bundle.sig``: a detached Ed25519 signature over the bytes of SHA256SUMS, with the id of the key.

    {"algorithm": "ed25519", "key_id": "89e2d6cfa3f08b1e", "signature": "128 hex digits"}

SHA256SUMS covers every other file that is read, so that its signature covers the bundle. Source: RFC 8032, section
5.1 (PureEdDSA, no pre-hash): OpenSSL verifies the same 64 bytes over the same file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from probes.bundle.keys import TrustedKeys, key_id
from probes.bundle.layout import SIGNATURE_FILE, SUMS_FILE
from probes.bundle.problems import problems
from probes.errors import BundleFormatError
from probes.types import Frozen


class Signature(Frozen):
    """What ``bundle.sig`` holds. ``key_id`` is a claim until the signature has been verified with that key."""

    algorithm: Literal["ed25519"] = "ed25519"
    key_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def make_signature(sums: bytes, key: Ed25519PrivateKey) -> bytes:
    """``bundle.sig`` for a bundle with these SHA256SUMS."""
    made = Signature(key_id=key_id(key.public_key()), signature=key.sign(sums).hex())
    return (made.model_dump_json(indent=2) + "\n").encode()


def parse_signature(path: Path, data: bytes) -> Signature:
    """Read ``bundle.sig``; nothing is verified yet.

    Raises:
        BundleFormatError: it is none.
    """
    try:
        return Signature.model_validate_json(data)
    except ValidationError as error:
        raise BundleFormatError(
            f"{path / SIGNATURE_FILE} is no signature of this format: {problems(error)}. Sign the bundle again: "
            f"plumbline bundle sign {path} --key KEY --replace"
        ) from error


def check_signature(path: Path, sums: bytes, signature: Signature | None, trusted: TrustedKeys) -> str:
    """Whether one of the trusted keys signed these SHA256SUMS.

    Args:
        path: of the bundle, for messages. sums: the bytes of SHA256SUMS.
        signature: as parsed, None if the bundle has none. trusted: keys that may have signed.

    Returns:
        The id of the key that did.

    Raises:
        BundleFormatError: unsigned, signed by another key, or the signature does not fit.
    """
    known = {key_id(key): key for key in trusted}
    names = ", ".join(known) or "none"
    if signature is None:
        raise BundleFormatError(
            f"{path} is not signed; wanted a signature by a trusted key ({names}). Get a signed copy, or sign it: "
            f"plumbline bundle sign {path} --key KEY"
        )
    key = known.get(signature.key_id)
    if key is None:
        raise BundleFormatError(
            f"{path} is signed with the key {signature.key_id}, which is not trusted; trusted: {names}. "
            "Trust the public key of its signer only if you know where it comes from."
        )
    try:
        key.verify(bytes.fromhex(signature.signature), sums)
    except InvalidSignature as error:
        raise BundleFormatError(
            f"{path / SIGNATURE_FILE} is no signature of this bundle by the key {signature.key_id}: {SUMS_FILE} was "
            "changed after signing, or the signature belongs to another bundle. Get the signed copy again."
        ) from error
    return signature.key_id
