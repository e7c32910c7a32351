"""A bundle in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probes.bundle.contents import attends
from probes.bundle.layout import Tensors, direction_tensor, probe_tensor, query_tensor
from probes.bundle.signature import Signature
from probes.cards import Card
from probes.types import Manifest


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read, and checked as far as it can be without the model.

    Attributes:
        path: the directory it was read from.
        manifest: everything but the tensors.
        tensors: read-only arrays by tensor name, each ``(d_model,)`` fp32.
        digest: SHA-256 in hex of the SHA256SUMS file: the bundle's identity, signed or not.
        card: what was measured, None if the bundle has no card.
        signature: as it is in the bundle, None if it is not signed. It says who claims to have signed.
        signed_by: id of the trusted key that signed; None if no trusted keys were given.
    """

    path: Path
    manifest: Manifest
    tensors: Tensors
    digest: str
    card: Card | None = None
    signature: Signature | None = None
    signed_by: str | None = None

    def probe_weights(self, name: str) -> NDArray[np.float32]:
        """Weights of the probe ``name``: ``(d_model,)`` fp32. KeyError names the known probes."""
        return self._tensor(probe_tensor(name), [p.name for p in self.manifest.probes])

    def probe_query(self, name: str) -> NDArray[np.float32]:
        """Query column of the attention probe ``name``: ``(d_model,)`` fp32. KeyError names the attention probes."""
        return self._tensor(query_tensor(name), [p.name for p in self.manifest.probes if attends(p)])

    def direction_vector(self, name: str) -> NDArray[np.float32]:
        """Unit vector of the direction ``name``: ``(d_model,)`` fp32. KeyError names the known directions."""
        return self._tensor(direction_tensor(name), [d.name for d in self.manifest.directions])

    def _tensor(self, key: str, known: list[str]) -> NDArray[np.float32]:
        try:
            return self.tensors[key]
        except KeyError:
            raise KeyError(f"the bundle has no {key}; it has {', '.join(known) or 'none'}") from None
