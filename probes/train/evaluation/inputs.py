"""What an evaluation needs, all choices already made: the probe, its scores, and ways to fit its controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from probes.cards import Candidate
from probes.errors import ShapeError
from probes.train.data import Example
from probes.train.encode import Encoded
from probes.train.evaluation.intervals import clusters
from probes.train.families import group_of
from probes.train.metrics import Floats, Labels
from probes.train.statistic import reported
from probes.types import Probe


@dataclass(frozen=True)
class Scored:
    """One set of examples under one probe.

    Attributes:
        examples: labelled conversations. encoded: the same ones as token ids.
        token_scores: ``(n_tokens,)`` fp32, the tokens in scope of all examples, one behind the other.
        offsets: ``(n_examples + 1,)`` int64.
        statistic: ``(n_examples,)`` fp64, what serving compares with the threshold; NaN unscored.
        token_queries: ``(n_tokens,)`` fp32, of a probe whose fold is ``attention``; None for every other fold.

    Raises:
        ShapeError: the parts are of different numbers of examples or tokens.
    """

    examples: tuple[Example, ...]
    encoded: tuple[Encoded, ...]
    token_scores: Tensor
    offsets: Tensor
    statistic: Floats
    token_queries: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.examples)
        if (len(self.encoded), len(self.offsets), self.statistic.shape) != (n, n + 1, (n,)):
            raise ShapeError(
                f"{n} examples came with {len(self.encoded)} encoded, {len(self.offsets)} offsets and a statistic of "
                f"shape {self.statistic.shape}; wanted {n}, {n + 1} and ({n},)."
            )
        n_tokens = int(self.offsets[-1])
        for name, values in (("token scores", self.token_scores), ("token queries", self.token_queries)):
            if values is not None and values.shape != (n_tokens,):
                raise ShapeError(f"{name} have shape {tuple(values.shape)}; the offsets want ({n_tokens},).")

    @property
    def labels(self) -> Labels:
        """``(n_examples,)`` int64."""
        return np.array([e.label for e in self.examples], dtype=np.int64)

    @cached_property
    def families(self) -> Labels | None:
        """The family's number of each example where intervals draw whole families; None where they draw examples."""
        return clusters(["/".join(group_of(e)) for e in self.examples], self.labels)

    def reported(self, probe: Probe) -> Floats:
        """The scores that verdicts at the probe's first threshold report: ``(n_examples,)`` fp64, NaN unscored."""
        threshold = probe.thresholds[0].value
        return reported(self.token_scores, self.offsets, probe.fold, probe.scope, threshold, self.token_queries)


@dataclass(frozen=True)
class Judged:
    """Everything needed to fill a :class:`~probes.cards.ProbeCard`, all choices already made.

    Attributes:
        probe: with its thresholds and its calibration set.
        candidates: every configuration that was tried, with its validation figures.
        train: examples that the probe was fitted on; the text baselines are, too.
        validation: examples that it was chosen and calibrated on. test: examples that nothing was chosen on.
        conditions: statistic of the test examples under other conditions, such as ``ablated``.
        seeds: statistic of the test examples under the chosen configuration, refitted with each seed.
        shifts: test examples under other distributions.
        refit: fits the chosen configuration on other labels of ``train``; gives the test statistic.
        random: a random direction at the chosen layer; gives the test statistics of it and of its opposite.
        untrained: test statistic of the same pipeline on the model with re-initialised weights, or None.
        decode: the text of each token id.
        seed: of everything random in the evaluation.
    """

    probe: Probe
    candidates: tuple[Candidate, ...]
    train: tuple[Example, ...]
    validation: Scored
    test: Scored
    conditions: Mapping[str, Floats]
    seeds: tuple[Floats, ...]
    shifts: Mapping[str, Scored]
    refit: Callable[[Labels], Floats]
    random: Callable[[np.random.Generator], tuple[Floats, Floats]]
    untrained: Floats | None
    decode: Callable[[Sequence[int]], list[str]]
    seed: int
