"""What lies in a bundle's folder: the names of its files, how large each may be, and the names of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

MANIFEST_FILE = "bundle.json"
CARD_FILE = "card.json"
TENSOR_FILE = "tensors.safetensors"
SUMS_FILE = "SHA256SUMS"
SIGNATURE_FILE = "bundle.sig"

REQUIRED = frozenset({MANIFEST_FILE, TENSOR_FILE, SUMS_FILE})
OPTIONAL = frozenset({CARD_FILE, SIGNATURE_FILE})
UNREAD = frozenset({"README", "README.md"})
SUMMED = (MANIFEST_FILE, CARD_FILE, TENSOR_FILE)  # the order of the lines in SHA256SUMS

# Nothing larger is read: a hostile file must not fill the memory of an engine. A thousand attention probes of width
# 16384 are 125 MiB of tensors.
MAX_BYTES: Mapping[str, int] = MappingProxyType(
    {
        MANIFEST_FILE: 16 * 2**20,
        CARD_FILE: 64 * 2**20,
        TENSOR_FILE: 256 * 2**20,
        SUMS_FILE: 4 * 2**10,
        SIGNATURE_FILE: 4 * 2**10,
    }
)

Files = Mapping[str, bytes]
Tensors = Mapping[str, NDArray[np.float32]]


def probe_tensor(name: str) -> str:
    """Name of a probe's tensor."""
    return f"probe.{name}.weights"


def query_tensor(name: str) -> str:
    """Name of an attention probe's second tensor."""
    return f"probe.{name}.query"


def direction_tensor(name: str) -> str:
    """Name of a direction's tensor."""
    return f"direction.{name}.vector"
