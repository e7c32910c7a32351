"""Differences of means: the candidates among which a direction is chosen.

For every layer and every way of reading an example: the mean activation of the positives minus that of the
negatives, summed in fp64. A way of reading is a position counted from the prompt's end, or the mean over a response.

Source: Arditi et al. 2024 (arXiv:2406.11717), section 2.3, which reads every post-instruction token; here block
outputs rather than inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.errors import DataError, NoDirectionError
from probes.train.collect import Activations
from probes.train.encode import Encoded
from probes.train.progress import Reporter

LAST_PROMPT_TOKEN, RESPONSE_MEAN = "last_prompt_token", "response_mean"


@dataclass(frozen=True)
class Difference:
    """One candidate, before it is known what it does.

    Attributes:
        layer: whose output it was taken from. position: how examples were read.
        vector: ``(d_model,)`` fp64, mean of the positives minus mean of the negatives.
        negative: ``(d_model,)`` fp64, mean of the negatives.
    """

    layer: int
    position: str
    vector: Tensor
    negative: Tensor

    @property
    def magnitude(self) -> float:
        """Norm of the difference."""
        return float(self.vector.norm())

    @property
    def unit(self) -> Tensor:
        """``(d_model,)`` fp32, unit norm."""
        unit: Tensor = self.vector / self.vector.norm()
        return unit.float()

    @property
    def origin(self) -> float:
        """Projection of the negatives' mean on the direction, in units of its magnitude."""
        return float(self.negative @ self.vector) / self.magnitude**2


def post_instruction(examples: Sequence[Encoded]) -> int:
    """How many template tokens follow the last instruction in every prompt, at least 1."""
    return max(1, min(e.n_prompt - e.instruction_end if e.instruction_end else 1 for e in examples))


def prompt_readings(activations: Activations) -> dict[str, Tensor]:
    """The last prompt token and every other post-instruction token: rows by name of the position, ``(n,)`` int64."""
    last = activations.offsets[1:] - 1
    n_post = post_instruction(activations.examples)
    return {LAST_PROMPT_TOKEN if k == 0 else f"post_instruction[{-1 - k}]": last - k for k in range(n_post)}


def at_positions(
    activations: Activations, n_layers: int, chosen: Mapping[int, Tensor], reporter: Reporter
) -> list[Difference]:
    """Differences at the post-instruction tokens of every layer, layer by layer.

    Args:
        activations: of prompts, read to their end.
        n_layers: of the model.
        chosen: by label, ``(n_examples,)`` bool: the examples to average.
        reporter: told about progress.
    """
    readings = prompt_readings(activations)
    weights = []
    for rows in readings.values():
        for label in (1, 0):
            weight = torch.zeros(int(activations.offsets[-1]), dtype=torch.float64)
            weight[rows[chosen[label]]] = 1.0
            weights.append(weight)
    return differences(activations, n_layers, list(readings), torch.stack(weights), reporter)


def over_responses(
    activations: Activations, n_layers: int, chosen: Mapping[int, Tensor], reporter: Reporter
) -> list[Difference]:
    """Differences of the mean over a response's tokens, every response counting equally; arguments as above."""
    lengths = activations.offsets.diff()
    weights = [(chosen[label].double() / lengths).repeat_interleave(lengths) for label in (1, 0)]
    return differences(activations, n_layers, [RESPONSE_MEAN], torch.stack(weights), reporter)


def differences(
    activations: Activations, n_layers: int, positions: Sequence[str], weights: Tensor, reporter: Reporter
) -> list[Difference]:
    """Weighted means of the rows, positives minus negatives.

    Args:
        activations: of every layer.
        n_layers: of the model.
        positions: names of the readings.
        weights: ``(2 * len(positions), n_tokens)`` fp64, for each reading the positives', then the negatives' weights.
        reporter: told about progress.

    Returns:
        By layer, then by position; without those where both means are the same.

    Raises:
        DataError: there are no positives or no negatives, or both have the same mean everywhere.
    """
    sums = weights.sum(dim=1, keepdim=True)
    if not bool((sums > 0).all()):
        raise DataError("no direction: there are no examples of one label to take the mean of; wanted some of each.")
    weights = weights / sums
    used = weights.any(dim=0)  # rows that no reading uses are never converted
    found = []
    with reporter.track("differences of means", n_layers, "layers") as advance:
        for layer in range(n_layers):
            means = torch.zeros(len(weights), 1, dtype=torch.float64)
            for part, rows in activations.batches(layer):
                kept = used[part]
                means = means + weights[:, part][:, kept] @ rows[kept].double()
            for i, position in enumerate(positions):
                found.append(Difference(layer, position, means[2 * i] - means[2 * i + 1], means[2 * i + 1]))
            advance(1)
    alive = [d for d in found if d.magnitude > 0]
    if not alive:
        raise NoDirectionError("no direction: positives and negatives have the same mean at every layer.")
    return alive
