"""A bundle's probe as the studies use it: what it reads, and what it then says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.bundle import Bundle
from probes.errors import DataError
from probes.train.collect import Activations
from probes.train.encode import Encoded
from probes.train.fit import Columns, Values
from probes.train.readings import Reading
from probes.types import FoldKind


@dataclass(frozen=True)
class ServedProbe:
    """A linear probe with its threshold.

    Attributes:
        name: of the probe.
        layer: 0-based block.
        columns: its weights. reading: scope and fold.
        threshold: logit; a statistic that reaches it trips.
    """

    name: str
    layer: int
    columns: Columns
    reading: Reading
    threshold: float

    @property
    def weights(self) -> Tensor:
        """``(d_model,)`` fp32."""
        return self.columns.weights[:, 0]

    @property
    def bias(self) -> float:
        """Logit."""
        return float(self.columns.bias[0])

    def statistic(self, activations: Activations) -> Values:
        """What serving compares with the threshold: ``(n_examples,)`` fp64, NaN unscored.

        Raises:
            DataError: the examples are about another part of the conversation than the probe reads.
        """
        self.check(activations.examples)
        return self.columns.statistic(activations.layer(self.layer), activations.offsets, self.reading)

    def check(self, examples: Sequence[Encoded]) -> None:
        """Whether the probe reads the part of the conversation that the labels are about.

        Raises:
            DataError: it does not.
        """
        scopes = {e.scope for e in examples}
        if scopes != {self.reading.scope}:
            raise DataError(
                f"probe {self.name} reads {self.reading.scope}, the examples are labelled for "
                f"{', '.join(sorted(scopes))}; give data of the kind that it was trained on."
            )


def served_probe(bundle: Bundle, name: str) -> ServedProbe:
    """The probe ``name`` of a bundle, at its first threshold.

    Raises:
        DataError: the bundle has no such probe; names those that it has.
    """
    probe = bundle.manifest.probe(name)
    if probe is None:
        known = ", ".join(p.name for p in bundle.manifest.probes) or "none"
        raise DataError(f"{bundle.path} has no probe {name!r}; it has {known}.")
    attends = probe.fold.kind is FoldKind.ATTENTION
    query = torch.from_numpy(bundle.probe_query(name).copy()) if attends else None
    weights = torch.from_numpy(bundle.probe_weights(name).copy())
    columns = Columns(weights[:, None], torch.tensor([probe.bias], dtype=torch.float32), query)
    return ServedProbe(
        name, probe.layer, columns, Reading(probe.scope, probe.fold, "tokens"), probe.thresholds[0].value
    )
