"""A bundle: the artifact that ties probes and directions to one model, a folder of a few files.

    bundle.json           the manifest (:class:`probes.types.Manifest`)
    card.json             optional: what was measured (:class:`probes.cards.Card`)
    tensors.safetensors   the vectors, each ``(d_model,)`` fp32
    SHA256SUMS            SHA-256 of the files above, in the format of ``sha256sum -c``
    bundle.sig            optional: an Ed25519 signature over SHA256SUMS
    README, README.md     optional, for people; never read

The path through the package, from the bottom up:

    layout    names and size limits of the files, names of the tensors
    files     folder to bytes, each file read once; bytes to folder, as a whole or not at all
    sums      SHA256SUMS against the bytes
    keys      Ed25519 keys as PEM files
    signature bundle.sig against SHA256SUMS and the keys that are trusted
    parse     bytes to manifest, card and tensors (problems: what is wrong with them, in a line)
    contents  do manifest and tensors fit together?
    artifact  :class:`Bundle`
    read, write, sign, match, migrate, merge (with merge_cards), diff (with flatten): one verb each

Importable without torch.
"""

from probes.bundle.artifact import Bundle
from probes.bundle.diff import BundleDiff, diff_bundles
from probes.bundle.keys import TrustedKeys, key_id, make_key, read_private_key, read_trusted_keys, trusted_keys
from probes.bundle.layout import (
    CARD_FILE,
    MANIFEST_FILE,
    SIGNATURE_FILE,
    SUMS_FILE,
    TENSOR_FILE,
    Tensors,
    direction_tensor,
    probe_tensor,
    query_tensor,
)
from probes.bundle.match import check_model
from probes.bundle.merge import Rename, merge_bundles
from probes.bundle.migrate import migrate_bundle
from probes.bundle.read import read_bundle
from probes.bundle.sign import sign_bundle
from probes.bundle.write import write_bundle

__all__ = [
    "CARD_FILE",
    "MANIFEST_FILE",
    "SIGNATURE_FILE",
    "SUMS_FILE",
    "TENSOR_FILE",
    "Bundle",
    "BundleDiff",
    "Rename",
    "Tensors",
    "TrustedKeys",
    "check_model",
    "diff_bundles",
    "direction_tensor",
    "key_id",
    "make_key",
    "merge_bundles",
    "migrate_bundle",
    "probe_tensor",
    "query_tensor",
    "read_bundle",
    "read_private_key",
    "read_trusted_keys",
    "sign_bundle",
    "trusted_keys",
    "write_bundle",
]
